# SPDX-License-Identifier: Apache-2.0
"""Text to token ids: WordPiece, and the Unicode tables it rests on."""
