"""The statements that the journal makes to SQLite."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (key TEXT PRIMARY KEY, seconds REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS outcomes (
    key TEXT NOT NULL, position INTEGER NOT NULL,
    broken INTEGER NOT NULL, unconfirmed INTEGER NOT NULL, distance REAL,
    forward INTEGER NOT NULL, backward INTEGER NOT NULL, x_adv BLOB, seal TEXT NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS proofs (
    key TEXT NOT NULL, position INTEGER NOT NULL,
    margin REAL NOT NULL, stage TEXT NOT NULL, seal TEXT NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS margins (
    key TEXT PRIMARY KEY, nearest REAL NOT NULL, seal TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS misses (
    key TEXT NOT NULL, position INTEGER NOT NULL,
    margin REAL NOT NULL, x BLOB NOT NULL, seal TEXT NOT NULL,
    PRIMARY KEY (key, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS behaviours (
    key TEXT PRIMARY KEY, answers TEXT NOT NULL, seal TEXT NOT NULL
);
"""
TABLES = ("outcomes", "proofs", "cells", "behaviours", "margins", "misses")
OF = "key = ?1 OR (key > ?1 || '/' AND key < ?1 || '0')"
"""A cell or certificate with its stages, whose keys are ``stage_key``: '0' comes after '/'."""
OUTCOMES = """
SELECT position, broken, unconfirmed, distance, forward, backward, x_adv, seal
FROM outcomes WHERE key = ?
"""
PROOFS = "SELECT position, margin, stage, seal FROM proofs WHERE key = ?"
MISSES = "SELECT position, margin, x, seal FROM misses WHERE key = ?"
SPEND = """
INSERT INTO cells VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET seconds = seconds + excluded.seconds
"""
