"""The `denoise` command: a file a command, each thin over its stage."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

from denoise.errors import DenoiseError
from denoise.places import is_of_a_store
from denoise.plain import plain, without_credentials


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command; what goes wrong is said in a line a fault, and in the exit status.

    0 is success, 1 a run that failed, 2 input that is wrong, 130 an interrupt.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    quiet_libraries()
    from denoise.cli.app import app, claims

    try:
        app(arguments, prog_name="denoise", standalone_mode=True)
    except DenoiseError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            print(f"denoise: error: {plain(line)}", file=sys.stderr)
        sys.exit(error.exit_status)
    except Exception as error:
        if debug:
            raise
        chain = [error, error.__cause__]  # a library may hide a full disk behind its own
        said = (without_credentials(f"{type(e).__name__}: {e}") for e in chain if e is not None)
        what = "; ".join(plain(text, 300) for text in said)
        fix = "; check the address, the network and your credentials"
        more = fix if is_of_a_store(error) else ""
        print(f"denoise: failed: {what}{more} (--debug shows where)", file=sys.stderr)
        sys.exit(1)
    finally:
        claims.close()
    sys.exit(0)


def quiet_libraries() -> None:
    """Keep the bars and notices of the libraries out of the command's own output."""
    for name, value in (
        ("TQDM_DISABLE", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "true"),
    ):
        os.environ.setdefault(name, value)
    logging.getLogger("gcsfs").setLevel(logging.ERROR)
