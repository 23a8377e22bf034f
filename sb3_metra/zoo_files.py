"""Files of a run as rl_zoo3 reads them, without running what they hold: settings, and normalised observations."""

import ast
import importlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import yaml
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

_EVALUATED = {"-params", "--hyperparams", "--env-kwargs", "--eval-env-kwargs"}
_PLAIN_OPTIONS = {"--algo", "--device", "--env", "--eval-episodes", "--eval-freq", "--log-folder", "--log-interval"}
_PLAIN_OPTIONS |= {"--n-eval-envs", "--n-timesteps", "--num-threads", "--paper", "--progress", "--save-freq", "--seed"}
_PLAIN_OPTIONS |= {"--save-replay-buffer", "--tensorboard-log", "--vec-env", "--verbose", "-P", "-f", "-n", "-tb"}
_NUMBER = re.compile(r"-\d+(\.\d+)?")
_SIMPLE = re.compile(r"[\w-]*(\.\d+)?")  # a string that means nothing else where rl_zoo3 evaluates it
_WRAPPERS = ("env_wrapper", "vec_env_wrapper")
_SAFE_MODULES = ("gymnasium.wrappers.", "rl_zoo3.wrappers.", "sb3_metra.", "stable_baselines3.common.")
_SKILLS = "sb3_metra.zoo.follow_skills"
_TRUST = "add --trust if you trust whoever made it"
_WRITERS = {"HumanRendering", "Monitor", "RecordVideo", "VecMonitor", "VecVideoRecorder"}  # wherever they are told to


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML writes rl_zoo3's settings: what is safe, tuples, ordered dictionaries, and names as text."""


def _ordered(loader: _Loader, node: yaml.Node) -> OrderedDict[Any, Any]:
    assert isinstance(node, yaml.SequenceNode)
    (pairs,) = loader.construct_sequence(node, deep=True) or [[]]
    return OrderedDict(pairs)


def _tuple(loader: _Loader, node: yaml.Node) -> tuple[Any, ...]:
    assert isinstance(node, yaml.SequenceNode)
    return tuple(loader.construct_sequence(node, deep=True))


def _name(loader: _Loader, suffix: str, node: yaml.Node) -> str:
    return suffix


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", _name)


def read_settings(stream: Any, Loader: Any = None) -> Any:  # PyYAML's name
    """
    Read ``config.yml`` or ``args.yml`` of a run.

    :param stream: the open file
    :param Loader: unused, PyYAML's signature
    :raises ValueError: if it is no YAML, or what it says would run code
    """
    label = getattr(stream, "name", "the file")
    try:
        settings = yaml.load(stream, _Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{label} must hold plain settings, got others: {reason}; {_TRUST}") from error
    if isinstance(settings, dict):
        if isinstance(settings.get("normalize"), str):
            settings["normalize"] = _read_normalize(label, settings["normalize"])
        for key in _WRAPPERS:
            _check_wrappers(label, key, settings.get(key))
    return settings


def _read_normalize(label: str, text: str) -> Any:
    """What rl_zoo3 would evaluate."""
    try:
        return read_value(text)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{label} must hold keywords as normalize, got {text!r}; {_TRUST}") from error


def read_value(text: str) -> Any:
    """
    A value in Python's words, if it runs nothing: literals, and ``dict(a=1)`` anywhere in them.

    :param text: an expression
    :raises ValueError: if it is anything else
    :raises SyntaxError: if it is no expression
    """
    return _evaluate(ast.parse(text.strip(), mode="eval").body)


def _evaluate(tree: ast.expr) -> Any:
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "dict" and not tree.args:
        return {str(word.arg): _evaluate(word.value) for word in tree.keywords}
    if isinstance(tree, (ast.List, ast.Tuple)):
        items = [_evaluate(item) for item in tree.elts]
        return items if isinstance(tree, ast.List) else tuple(items)
    if isinstance(tree, ast.Dict):
        keys = [ast.literal_eval(key) for key in tree.keys if key is not None]
        return dict(zip(keys, map(_evaluate, tree.values), strict=True))
    return ast.literal_eval(tree)


def check_own_words(run: str, words: Sequence[Any]) -> None:
    """
    Refuse words that a run was begun with, unless it is known that rl_zoo3 runs no code for them.

    :param run: the run's folder
    :param words: what its file says
    :raises ValueError: for the first such word
    """
    option = ""
    for word in words:
        if isinstance(word, str) and word.startswith("-") and not _NUMBER.fullmatch(word):
            option, safe = word, word in _PLAIN_OPTIONS | _EVALUATED
        elif option in _EVALUATED:
            safe = isinstance(word, str) and _is_safe_keyword(run, word)
        else:
            safe = isinstance(word, str) and not (option == "--env" and ":" in word)
        if not safe:
            raise ValueError(f"{run} must be trusted, because {option} with {word!r} could run code; {_TRUST}")


def _is_safe_keyword(run: str, word: str) -> bool:
    """Whether ``KEY:VALUE`` is evaluated to what it says, and is not evaluated again, nor imported."""
    key, _, text = word.partition(":")
    try:
        value = read_value(text)
        if key in _WRAPPERS:
            _check_wrappers(run, key, value)
            return True
    except (ValueError, SyntaxError):
        return False
    return key != "callback" and not (isinstance(value, str) and not _SIMPLE.fullmatch(value))


def _check_wrappers(label: str, key: str, value: Any) -> None:
    """Refuse to import, and to call, whatever the file names."""
    for entry in value if isinstance(value, list) else [value]:
        name = next(iter(entry), None) if isinstance(entry, dict) else entry
        if name is not None and name != _SKILLS and not _is_wrapper(str(name)):
            raise ValueError(f"{label} must name wrappers of known packages as {key}, got {name!r}; {_TRUST}")


def _is_wrapper(name: str) -> bool:
    module, _, last = name.rpartition(".")
    if not f"{module}.".startswith(_SAFE_MODULES) or last in _WRITERS:
        return False
    try:
        kind = getattr(importlib.import_module(module), last, None)
    except ImportError:
        return False
    return isinstance(kind, type) and issubclass(kind, (gym.Wrapper, VecEnvWrapper))


class RunFiles:
    """
    How rl_zoo3 gets at a run's files while one of its scripts runs: trusted ones as it does, others without pickles.

    Of others, ``vecnormalize.pkl`` stays closed: ``VecNormalize.load`` gives one that has seen nothing yet, and the
    model that is loaded next hands its own statistics on.

    :param trusted: whether the files may run code
    """

    def __init__(self, trusted: bool = False) -> None:
        self.trusted = trusted
        self.yaml = yaml if trusted else SimpleNamespace(**(vars(yaml) | {"load": read_settings}))
        deferred: Any = partial(VecNormalize)
        deferred.load = self._defer
        self.VecNormalize = VecNormalize if trusted else deferred
        self._waiting: list[VecNormalize] = []
        self._path = ""

    def _defer(self, load_path: str, venv: VecEnv) -> VecNormalize:
        self._path = load_path
        self._waiting.append(VecNormalize(venv, norm_reward=False))
        return self._waiting[-1]

    def load(self, algorithm: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Load a model of this package, and hand its statistics on.

        :param algorithm: its class
        :param args: arguments of its ``load``
        :param kwargs: further ones
        :raises ValueError: if statistics lie beside it that it does not carry itself
        """
        model = algorithm.load(*args, **kwargs, trusted=self.trusted)
        for env in self._waiting:
            if (carried := model._normalization) is None:
                raise ValueError(
                    f"{self._path} must be trusted, because it is a pickle, which can run code, and the model carries "
                    f"no statistics of its own; {_TRUST}"
                )
            if isinstance(carried.mean, dict):
                env.norm_obs_keys = list(carried.mean)
            carried.apply_to(env)
        self._waiting = []
        return model


_current = RunFiles()


@contextmanager
def reading(files: RunFiles) -> Iterator[None]:
    """
    While it is open, :func:`current_files` gives these.

    :param files: how to get at a run's files
    """
    global _current
    before, _current = _current, files
    try:
        yield
    finally:
        _current = before


def current_files() -> RunFiles:
    """How the script that is running gets at a run's files."""
    return _current
