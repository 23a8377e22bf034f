"""The commands of ``sb3-metra``, one file each, whose function ``run`` takes the words after the command's name."""
