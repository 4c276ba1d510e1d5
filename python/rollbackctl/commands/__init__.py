# SPDX-License-Identifier: GPL-3.0-or-later
"""The wrapper's commands, by what they work on."""
