"""Reading preference and crowdsourcing data in the forms that people keep them in.

Each form is one object (`ballots.Form`) in a file of its own; `recognise.FORMS` lists them in the
order in which they are tried.
"""

from denoise.importers.recognise import FORMS, import_data

__all__ = ["FORMS", "import_data"]
