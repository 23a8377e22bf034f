"""A policy in a file of its own, without pickles."""

from __future__ import annotations

from typing import Any, TypeVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device

from sb3_metra.common.archive import File
from sb3_metra.common.saving import read_policy, write_policy

Self = TypeVar("Self", bound="PersistentPolicy")


class PersistentPolicy(BasePolicy):
    """SB3's base of policies, whose files run nothing where they are loaded."""

    def save(self, path: File) -> None:
        """
        Save the policy as JSON and safetensors.

        :param path: the file, or an open one
        """
        write_policy(path, self._get_constructor_parameters(), self.state_dict())

    @classmethod
    def load(
        cls: type[Self],
        path: File,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        *,
        trusted: bool = False,
    ) -> Self:
        """
        Load a policy.

        :param path: the file, or an open one
        :param device: ``"cpu"``, ``"cuda"`` or ``"auto"``
        :param custom_objects: arguments that replace those of the file, by name; and classes of your own that it names
        :param trusted: unpickle a file of before 0.2, which can run any code that it brings
        :raises ValueError: if the file is damaged, or needs trust
        """
        saved = read_policy(path, custom_objects)
        if saved is None:
            if not trusted:
                raise ValueError(
                    f"{getattr(path, 'name', path)} must be trusted before it is loaded, because it is a pickle, which "
                    "can run code; if you trust whoever made it, load it with trusted=True, and save it again"
                )
            return super().load(path, device)  # type: ignore[arg-type]
        data, state_dict = saved
        policy = cls(**{"lr_schedule": cls._dummy_schedule, **data})
        policy.load_state_dict(state_dict)
        return policy.to(get_device(device))
