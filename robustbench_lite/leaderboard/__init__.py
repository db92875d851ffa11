"""Boards, planning, ranking, rendering, checking: everything in ``leaderboards/`` is a pure
function of boards and records.
"""
