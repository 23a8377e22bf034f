"""Export of skills: ONNX, weights, a contract, and a player without PyTorch and SB3."""

from sb3_metra.export.writer import export_skills

__all__ = ["export_skills"]
