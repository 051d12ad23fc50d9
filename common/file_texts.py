# SPDX-License-Identifier: Apache-2.0
"""Texts that are whole files of the user's, and what stands for them where they are shown."""

from common.errors import UserError
from common.files import utf8_text


class FileText(str):
    """The text of a whole file, which people and files are told by its path.

    Attributes:
        file: str, the path as the user gave its folder.
    """

    @classmethod
    def read(cls, path):
        """Returns the FileText of a path. Raises UserError where it cannot be read."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"--input_file: {path} cannot be read: {error}") from None
        text = cls(utf8_text(content, f"--input_file: {path}"))
        text.file = str(path)
        return text


def shown(text):
    """Returns what stands for a text in tables and lines: itself, or the path of its file."""
    return text.file if isinstance(text, FileText) else text
