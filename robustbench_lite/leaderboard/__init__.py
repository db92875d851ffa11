"""Boards, planning, ranking, rendering, checking.

Everything in ``leaderboards/`` is a pure function of boards and records.
"""
