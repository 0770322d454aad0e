"""An export on the Hugging Face Hub: private, and without names, unless asked otherwise."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from denoise import tables
from denoise.errors import RunError, refuse
from denoise.plain import plain
from denoise.stages.card import CARD_FILE, PLOT_FILE
from denoise.stages.export import SKIPPED_FILE, Export, write_export
from denoise.stages.pseudonyms import with_pseudonyms


def push_to_hub(
    result: Export,
    repo_id: str,
    *,
    private: bool = True,
    keep_annotator_ids: bool = False,
    license: str | None = None,
    token: str | None = None,
) -> str:
    """Upload an export as a dataset repository, with its card, and return the address.

    Args:
        result: what to upload.
        repo_id: `owner/name`; made where it does not exist.
        private: whether only its owner sees it. A repository that exists and is public is refused.
        keep_annotator_ids: upload the ids as they are, not pseudonyms.
        license: as in `write_export`.
        token: of the hub, else the one that `huggingface_hub` finds; it is not kept or shown.

    Raises:
        InputError: the repository is public where a private one is wanted, or has no valid name.
        RunError: the hub cannot be reached, or refuses.
    """
    # Slow to import, and only an upload needs them.
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if not keep_annotator_ids and not result.pseudonymous:
        result = with_pseudonyms(result)
    api = HfApi(endpoint=datasets.config.HF_ENDPOINT, token=token)
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        if private and not api.dataset_info(url.repo_id).private:
            refuse(
                f"the repository {plain(repo_id)} exists and is public",
                fix="give another name, make it private, or ask for a public upload",
            )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "export")
            write_export(result, folder, "hf", license=license, location=url.repo_id)
            data = datasets.load_dataset(
                str(folder), split="train", cache_dir=str(Path(scratch, "cache"))
            )
            data.push_to_hub(url.repo_id, private=private, token=token, embed_external_files=False)
            # Afterwards, since `datasets` writes a bare card of its own.
            api.upload_folder(
                repo_id=url.repo_id,
                repo_type="dataset",
                folder_path=folder,
                allow_patterns=[CARD_FILE, PLOT_FILE, SKIPPED_FILE, tables.MANIFEST],
                commit_message="Add the card",
            )
    except HFValidationError as error:
        refuse("not the name of a repository", found=repo_id, fix=_safe(error, token))
    # The hub's library changes its HTTP library now and then; the base of its own error is of it.
    except (OSError, *HfHubHTTPError.__bases__) as error:
        # Not chained: the request in it carries the token.
        raise RunError(f"the upload to {plain(repo_id)} failed: {_safe(error, token)}") from None
    return str(url)


def _safe(error: Exception, token: str | None) -> str:
    text = str(error).replace(token, "***") if token else str(error)
    return plain(re.sub(r"\bhf_\w{8,}", "***", text), 400)
