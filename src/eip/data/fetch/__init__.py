"""Published data sets → files on disk, by the catalogue beside this module.

pooch fetches, checks and renames; what it lacks is added here: a download that was cut goes on
where it stopped (HTTP ranges), archives are unpacked, and ``fetched.json`` beside the files keeps
from where each came, its sha256, and whether a published checksum vouched for it.
"""

from eip.data.fetch.data_sets import DataSet, RemoteFile, catalog, find_data_set
from eip.data.fetch.download import Report
from eip.data.fetch.files import RECORD, fetch, nothing_to_report

__all__ = [
    "RECORD",
    "DataSet",
    "RemoteFile",
    "Report",
    "catalog",
    "fetch",
    "find_data_set",
    "nothing_to_report",
]
