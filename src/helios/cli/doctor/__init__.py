"""``helios plugins doctor``: find the problems of plug-ins, each with its remedies."""

from helios.cli.doctor.command import (
    find_problems,
    print_json_report,
    print_problems,
    print_report,
)
from helios.cli.doctor.names import LocalSelection
from helios.cli.doctor.problem import Problem

__all__ = [
    "LocalSelection",
    "Problem",
    "find_problems",
    "print_json_report",
    "print_problems",
    "print_report",
]
