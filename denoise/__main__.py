"""`python -m denoise` is the `denoise` command."""

from denoise.cli import main

if __name__ == "__main__":
    main()
