# SPDX-License-Identifier: GPL-3.0-or-later
"""What rollbackctl knows: pure functions that modules, action plugins and the wrapper share."""
