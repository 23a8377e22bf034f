"""Models on the Hugging Face Hub: the saved model, its export and a card, pushed in one commit, and fetched again."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_metra.common.inputs import check_path, check_text
from sb3_metra.common.versions import check_versions
from sb3_metra.export.card import make_card
from sb3_metra.export.writer import export_skills

MODEL, EXPORT, PAGE, CARD = "model.zip", "skills", "skills.html", "README.md"


def push_to_hub(
    model: Any,
    repo_id: str,
    *,
    env_id: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    page: str | Path | None = None,
    license: str | None = None,
    skills: Mapping[str, Any] | None = None,
    export: bool = True,
    private: bool | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    commit_message: str = "Upload a model of sb3-metra",
) -> str:
    """
    Push a model to the Hugging Face Hub: ``model.zip``, the export in ``skills/``, and a card as ``README.md``.

    :param model: an algorithm
    :param repo_id: such as ``"me/ant"``; made if it is missing
    :param env_id: of the environment, for the card
    :param metrics: what was measured, by name, for the card, such as
        :func:`~sb3_metra.evaluation.evaluate_skills` returns
    :param page: the skill explorer, a file that is pushed as ``skills.html``
    :param license: of the weights, such as ``"MIT"``
    :param skills: skills by name, see :func:`~sb3_metra.export.export_skills`
    :param export: push the export, too
    :param private: keep a new repository private
    :param token: of the Hub; ``None``: the one that is logged in
    :param endpoint: address of the Hub; ``None``: that of huggingface_hub, which reads ``HF_ENDPOINT``
    :param commit_message: the commit's
    :return: address of the commit
    :raises ValueError: if an argument is wrong
    :raises ImportError: if huggingface_hub is missing
    """
    check_versions("hub")
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repo_id(repo_id)
    if page is not None and not check_path("page", page).is_file():
        raise ValueError(f"page must be a file, such as sb3-metra report writes, got {str(page)!r}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save(folder / MODEL)
        if export:
            export_skills(model, folder / EXPORT, skills=skills, license=license)
        if page is not None:
            (folder / PAGE).write_bytes(Path(page).read_bytes())
        card = make_card(model, repo_id, env_id, metrics, license, export=export, page=page is not None)
        (folder / CARD).write_text(card, encoding="utf-8")
        api = HfApi(endpoint=endpoint, token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        return str(api.create_commit(repo_id, operations, commit_message=commit_message).commit_url)


def load_from_hub(
    repo_id: str,
    filename: str = MODEL,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """
    Fetch a file of a model from the Hugging Face Hub: ``sb3_metra.load(load_from_hub("me/ant"))``.

    Returns the file's path, as the zoo's ``huggingface_sb3``. Nothing in it is run, neither here nor by ``load``.

    :param repo_id: such as ``"me/ant"``
    :param filename: of the file
    :param revision: commit, branch or tag; a commit never changes
    :param token: of the Hub; ``None``: the one that is logged in
    :param endpoint: address of the Hub; ``None``: that of huggingface_hub, which reads ``HF_ENDPOINT``
    :param cache_dir: where files are kept; ``None``: huggingface_hub's own folder
    :raises ValueError: if the repository has no such file or revision, or there is no such repository
    :raises OSError: if the Hub cannot be reached, or does not let this token in
    :raises ImportError: if huggingface_hub is missing
    """
    check_versions("hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    check_repo_id(repo_id)
    try:
        path = hf_hub_download(
            repo_id,
            check_text("filename", filename),
            revision=revision,
            token=token,
            endpoint=endpoint,
            cache_dir=cache_dir,
        )
    except (LocalEntryNotFoundError, GatedRepoError):  # nobody knows whether it is there
        raise
    except RevisionNotFoundError as error:
        raise ValueError(f"revision must be one of {repo_id!r}, got {revision!r}, which it does not have") from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        missing = "repository" if isinstance(error, RepositoryNotFoundError) else f"file {filename!r}"
        raise ValueError(
            f"repo_id must name a repository with the file {filename!r}, got {repo_id!r}: there is no {missing}"
        ) from error
    return Path(path)


def check_repo_id(repo_id: Any) -> str:
    """
    Refuse what names no repository.

    :param repo_id: the given value
    :raises ValueError: unless it is ``OWNER/NAME``
    """
    if not isinstance(repo_id, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo_id):
        raise ValueError(f"repo_id must be OWNER/NAME, such as me/ant, got {repo_id!r}")
    return repo_id
