"""MiniGrid's four rooms, always the same ones: turn and go, through gates one cell wide."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_metra.envs.checks import check_integer, check_picture
from sb3_metra.envs.goals import check_place
from sb3_metra.envs.rendering import explained_imports
from sb3_metra.envs.states import State, check_state, get_generator, set_generator

with explained_imports('Four rooms need MiniGrid: install it with `pip install "sb3-metra[minigrid]"`.'):
    from minigrid.envs.fourrooms import FourRoomsEnv as MiniGridFourRooms

ROOMS = {"north west": (4, 4), "north east": (13, 4), "south west": (4, 13), "south east": (13, 13)}
"""The rooms, and a cell in the middle of each; y counts downwards."""

_HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # east, and on clockwise
_MIDDLE, _SCALE = 9, 5.0  # of the walls, and cells that are 1 in an observation: about a cell's deviation
_SIGHT, _SIGHT_SCALE = 8, 4.0  # free cells that are seen at most, and that are 1 in an observation
_NO_LIMIT = 10**9  # steps: Gymnasium's TimeLimit ends episodes


class _Rooms(MiniGridFourRooms):
    """MiniGrid's rooms without its observation, which takes longer than all the rest of a step."""

    def gen_obs(self) -> dict[str, Any]:
        return {}


class FourRoomsEnv(gym.Env):
    """
    MiniGrid's four rooms with 260 free cells, without a goal; episodes start in the middle of a room.

    The observation is ``(8,)`` float32: the place, from the middle and in units of 5 cells; the direction as a unit
    vector; and how many cells are free ahead, to the right, behind and to the left, at most 8, in units of 4. Actions
    turn left, turn right, and go forward. ``info["coordinates"]`` is the cell ``(x, y)``, from 1 to 17, and
    ``info["tasks"]`` says for each room whether the episode has visited it, at the reset and at every step. The reward
    is the number of rooms that are entered for the first time in the episode. It never terminates.

    :param layout: where the gates are: the seed that MiniGrid draws them with
    :param start: the room in whose middle episodes begin, in a random direction
    :param render_mode: ``"rgb_array"`` or ``None``
    :param width: width of the pictures that ``render`` draws, in pixels
    :param height: height of the pictures that ``render`` draws, in pixels
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # as in Gymnasium
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "unit": "cells",
        "goal_range": None,
    }

    def __init__(
        self,
        layout: int = 0,
        start: str = "north west",
        render_mode: str | None = None,
        width: int = 256,
        height: int = 256,
    ):
        check_integer("layout", layout, 0)
        if not isinstance(start, str) or start not in ROOMS:
            raise ValueError(f"start must be one of {list(ROOMS)}, got {start!r}.")
        check_picture(render_mode, width, height)
        self.layout, self.start = layout, start
        self.render_mode, self.width, self.height = render_mode, width, height
        self._rooms = _Rooms(agent_pos=ROOMS[start], max_steps=_NO_LIMIT, render_mode=render_mode, highlight=False)
        self._rooms.reset(seed=layout)
        x, y = next((x, y) for x in range(19) for y in range(19) if self._cell(x, y) == "goal")
        self._rooms.grid.set(x, y, None)
        reach = (_MIDDLE - 1) / _SCALE
        sight = [_SIGHT / _SIGHT_SCALE] * 4
        self.observation_space = spaces.Box(
            np.array([-reach, -reach, -1.0, -1.0, *[0.0] * 4], np.float32),
            np.array([reach, reach, 1.0, 1.0, *sight], np.float32),
        )
        cells = [(x, y) for x in range(1, 2 * _MIDDLE) for y in range(1, 2 * _MIDDLE)]
        self._free = {cell: [self._count_free(cell, heading) for heading in _HEADINGS] for cell in cells}
        self.action_space = spaces.Discrete(3)
        self._visited: set[str] = set()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._rooms.agent_pos, self._rooms.agent_dir = ROOMS[self.start], int(self.np_random.integers(4))
        self._visited = {self.start}
        return self._observe(), self._tell()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Turn left (0), turn right (1) or go forward (2), unless there is a wall."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be 0, 1 or 2, got {action!r}.")
        self._rooms.step(int(action))
        room = self._room()
        new = room is not None and room not in self._visited
        if room is not None:
            self._visited.add(room)
        return self._observe(), float(new), False, False, self._tell()

    def goal_observation(self, goal: Any) -> np.ndarray:
        """
        Observe a room's middle, or another cell, looking east; the running episode does not change.

        :param goal: a room's name, or a cell ``(x, y)``
        :return: an observation
        :raises ValueError: if the goal is neither
        """
        if isinstance(goal, str):
            if goal not in ROOMS:
                raise ValueError(f"goal must be one of {list(ROOMS)}, got {goal!r}.")
            goal = ROOMS[goal]
        place = check_place(goal, 2)
        if np.abs(place - _MIDDLE).max() > _MIDDLE - 1:
            raise ValueError(f"goal must lie between 1 and {2 * _MIDDLE - 1}, got {goal!r}.")
        return self._as_observation(place, 0)

    def render(self) -> np.ndarray | None:
        """
        Draw the rooms and the agent, in the middle of the picture.

        :return: ``(height, width, 3)`` uint8, or ``None`` without a render mode
        """
        if self.render_mode is None:
            gym.logger.warn('render() draws nothing without render_mode="rgb_array".')
            return None
        tile = max(1, min(self.width, self.height) // 19)
        drawn = self._rooms.get_frame(highlight=False, tile_size=max(tile, 4))[: self.height, : self.width]
        image = np.zeros((self.height, self.width, 3), np.uint8)
        top, left = (self.height - drawn.shape[0]) // 2, (self.width - drawn.shape[1]) // 2
        image[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
        return image

    def get_state(self) -> State:
        """
        Return everything that the rest of the episode depends on.

        :return: NumPy arrays and JSON values
        """
        place = np.array([*self._rooms.agent_pos, self._rooms.agent_dir])
        return {"np_random": get_generator(self), "place": place, "visited": sorted(self._visited)}

    def set_state(self, state: State) -> None:
        """
        Restore a state.

        :param state: what ``get_state`` returned
        :raises ValueError: if it is the state of another environment
        """
        state = check_state(state, self.get_state())
        set_generator(self, state["np_random"])
        x, y, direction = (int(number) for number in state["place"])
        self._rooms.agent_pos, self._rooms.agent_dir = (x, y), direction
        self._visited = set(state["visited"])

    def _cell(self, x: int, y: int) -> str | None:
        thing = self._rooms.grid.get(x, y)
        return None if thing is None else thing.type

    def _room(self) -> str | None:
        """The room that the agent is in; ``None`` in a gate."""
        x, y = self._rooms.agent_pos
        if _MIDDLE in (x, y):
            return None
        return f"{'north' if y < _MIDDLE else 'south'} {'west' if x < _MIDDLE else 'east'}"

    def _observe(self) -> np.ndarray:
        return self._as_observation(np.array(self._rooms.agent_pos, np.float64), self._rooms.agent_dir)

    def _as_observation(self, place: np.ndarray, direction: int) -> np.ndarray:
        x, y = np.rint(place).astype(int).tolist()
        free = np.roll(self._free[x, y], -direction)
        sight = np.minimum(free, _SIGHT) / _SIGHT_SCALE
        return np.concatenate([(place - _MIDDLE) / _SCALE, _HEADINGS[direction], sight]).astype(np.float32)

    def _count_free(self, cell: tuple[int, int], heading: tuple[int, int]) -> int:
        """Free cells between a cell and the next wall."""
        n, (x, y), (dx, dy) = 0, cell, heading
        while self._cell(x + (n + 1) * dx, y + (n + 1) * dy) != "wall":
            n += 1
        return n

    def _tell(self) -> dict[str, Any]:
        place = np.array(self._rooms.agent_pos, np.float64)
        return {"coordinates": place, "tasks": {room: room in self._visited for room in ROOMS}}
