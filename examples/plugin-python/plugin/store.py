"""The store: one SQLite file, which several processes may have open."""

import dataclasses
import os
import secrets
import sqlite3
import time

from plugin.failure import Failure, not_found
from plugin.request import Sealer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- Every version, in the order in which they were made: history and change log in one.
CREATE TABLE IF NOT EXISTS versions (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL, service TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL,
  value BLOB, -- NULL in a tombstone
  content_type TEXT NOT NULL, updated_at INTEGER NOT NULL, updated_by TEXT NOT NULL, message TEXT NOT NULL,
  UNIQUE (tenant, service, key, version));
-- The latest of each key.
CREATE TABLE IF NOT EXISTS heads (
  tenant TEXT NOT NULL, service TEXT NOT NULL, key TEXT NOT NULL,
  seq INTEGER NOT NULL, version INTEGER NOT NULL, live INTEGER NOT NULL,
  PRIMARY KEY (tenant, service, key)) WITHOUT ROWID;
"""
_LAYOUT = 1  # PRAGMA user_version; another layout is another number
_COLUMNS = "v.seq, v.tenant, v.service, v.key, v.version, v.value, v.content_type, v.updated_at, v.updated_by, v.message"
_BUSY = 2.0  # seconds to wait for another process's write
_BEHIND = "\x7f"  # sorts behind every byte that a key may hold
MAX_PAGE_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One version of one key."""

    seq: int
    tenant: str
    service: str
    key: str
    version: int
    value: bytes | None
    content_type: str
    updated_at: int  # nanoseconds since 1970
    updated_by: str
    message: str

    @property
    def deleted(self):
        """Whether it is a tombstone."""
        return self.value is None


class Store:
    """Reads are for one thread and never wait; writes are for another, and do.

    In SQLite's WAL mode neither holds up the other. A commit is fsynced before it is
    answered.
    """

    def __init__(self, path, history_limit, change_limit, max_value):
        self.history_limit, self.change_limit, self.max_value = history_limit, change_limit, max_value
        self._write = self._connect(path)
        # Another process may be making the file just now; it does so in WAL mode, too.
        self._write.execute("PRAGMA journal_mode = WAL")
        self._write.execute("PRAGMA synchronous = FULL")
        self._write.execute("BEGIN IMMEDIATE")
        layout = self._write.execute("PRAGMA user_version").fetchone()[0]
        if layout not in (0, _LAYOUT):
            self._write.close()
            raise Failure("FAILED_PRECONDITION", "the data file was written by a newer version of this plugin",
                          hint="use that version")
        for statement in _SCHEMA.split(";\n"):
            self._write.execute(statement)
        self._write.execute("INSERT OR IGNORE INTO meta VALUES ('token_key', ?)", (secrets.token_bytes(32),))
        self._write.execute(f"PRAGMA user_version = {_LAYOUT}")
        self._write.execute("COMMIT")
        self._read = self._connect(path)
        self.tokens = Sealer(self._read.execute("SELECT value FROM meta WHERE name = 'token_key'").fetchone()[0])

    @staticmethod
    def _connect(path):
        # The threads are kept apart by the caller. isolation_level None: transactions are spelt out.
        return sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)

    def close(self):
        """Closes the file. No call may be running."""
        self._read.close()
        self._write.close()

    # Writes.

    def put(self, identity, value, content_type, expected, by, message):
        """Writes a version and returns it."""
        if len(value) > self.max_value:
            raise Failure("INVALID_ARGUMENT", f"the value has {len(value)} bytes, the limit is {self.max_value}")
        return self._change(identity, value, content_type or "application/json", expected, by, message)

    def delete(self, identity, expected, by, message):
        """Writes a tombstone and returns it."""
        return self._change(identity, None, "", expected, by, message)

    def _change(self, identity, value, content_type, expected, by, message):
        self._write.execute("BEGIN IMMEDIATE")
        try:
            row = self._changed(identity, value, content_type, expected, by, message)
            self._write.execute("COMMIT")
            return row
        finally:
            if self._write.in_transaction:
                self._write.execute("ROLLBACK")

    def _changed(self, identity, value, content_type, expected, by, message):
        latest, live, before = self._write.execute(
            "SELECT h.version, h.live, v.updated_at FROM heads h JOIN versions v ON v.seq = h.seq"
            " WHERE h.tenant = ? AND h.service = ? AND h.key = ?", identity).fetchone() or (0, 0, 0)
        if value is None and not live:
            raise not_found()
        if expected is not None and (live if expected == 0 else expected != latest):
            raise Failure("CONFLICT", "the expected version is not the current one",
                          hint="read it again and decide anew", version=latest)
        made = (*identity, latest + 1, value, content_type, max(time.time_ns(), before), by, message)
        seq = self._write.execute(
            "INSERT INTO versions (tenant, service, key, version, value, content_type, updated_at, updated_by, message)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", made).lastrowid
        self._write.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?, ?)",
                            (*identity, seq, latest + 1, value is not None))
        # A version goes when neither history nor a watch can show it any more.
        self._write.execute(
            "DELETE FROM versions WHERE tenant = ? AND service = ? AND key = ? AND version <= ? AND seq <= ?",
            (*identity, latest + 1 - self.history_limit, seq - self.change_limit))
        return Row(seq, *made)

    # Reads.

    def get(self, identity, version):
        """The latest version, for version 0, or that one."""
        head = self._head(identity)
        if head is None:
            raise not_found()
        wanted = version or head[0]
        if not head[0] - self.history_limit < wanted <= head[0]:
            raise not_found()
        found = self._read.execute(
            f"SELECT {_COLUMNS} FROM versions v WHERE tenant = ? AND service = ? AND key = ? AND version = ?",
            (*identity, wanted)).fetchone()
        if found is None or found[5] is None:
            raise not_found()
        return Row(*found)

    def _head(self, identity):
        return self._read.execute("SELECT version FROM heads WHERE tenant = ? AND service = ? AND key = ?", identity).fetchone()

    def list(self, scope, prefix, after, size):
        """One page of live entries behind the key after, and whether there are more."""
        return _page(size, self._read.execute(
            f"SELECT {_COLUMNS} FROM heads h JOIN versions v ON v.seq = h.seq"
            " WHERE h.tenant = ? AND h.service = ? AND h.key >= ? AND h.key < ? AND h.key > ? AND h.live ORDER BY h.key",
            (*scope, prefix, prefix + _BEHIND, after)))

    def history(self, identity, before, size):
        """One page of versions below before (None: all), newest first, and whether there are more."""
        head = self._head(identity)
        if head is None:
            raise not_found()
        return _page(size, self._read.execute(
            f"SELECT {_COLUMNS} FROM versions v WHERE tenant = ? AND service = ? AND key = ? AND version > ? AND version < ?"
            " ORDER BY version DESC",
            (*identity, head[0] - self.history_limit, head[0] + 1 if before is None else before)))

    # Watching.

    def newest(self):
        """The number of the newest change."""
        return self._read.execute("SELECT coalesce(max(seq), 0) FROM versions").fetchone()[0]

    def snapshot(self, scope, prefix):
        """The number of the newest change, and the numbers of the entries that are live with it."""
        self._read.execute("BEGIN")
        try:
            live = self._read.execute(
                "SELECT seq FROM heads WHERE tenant = ? AND service = ? AND key >= ? AND key < ? AND live ORDER BY key",
                (*scope, prefix, prefix + _BEHIND)).fetchall()
            return self.newest(), [seq for seq, in live]
        finally:
            self._read.execute("COMMIT")

    def version(self, seq):
        """The version that change number seq made."""
        found = self._read.execute(f"SELECT {_COLUMNS} FROM versions v WHERE seq = ?", (seq,)).fetchone()
        if found is None:
            raise _too_late()
        return Row(*found)

    def changes(self, scope, prefix, after, most):
        """The first changes behind a number, and the number up to which that is all of them."""
        newest = self.newest()
        if after < newest - self.change_limit or after > newest:
            raise _too_late()
        # By number: the index would find every version of the scope, and sort them.
        rows = [Row(*r) for r in self._read.execute(
            f"SELECT {_COLUMNS} FROM versions v NOT INDEXED"
            " WHERE seq > ? AND seq <= ? AND tenant = ? AND service = ? AND key >= ? AND key < ? ORDER BY seq LIMIT ?",
            (after, newest, *scope, prefix, prefix + _BEHIND, most))]
        return rows, rows[-1].seq if len(rows) == most else newest

    def touched(self):
        """A number that changes when another connection, or another process, has committed."""
        return self._read.execute("PRAGMA data_version").fetchone()[0]

    # The store as a whole.

    def ping(self):
        """Reads from the file."""
        self._read.execute("SELECT count(*) FROM meta").fetchone()

    def size(self):
        """Bytes, live entries, versions in history, changes that a watch can resume from. For the writing thread."""
        bytes_ = self._write.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]
        entries = self._write.execute("SELECT count(*) FROM heads WHERE live").fetchone()[0]
        versions = self._write.execute(
            "SELECT count(*) FROM versions v JOIN heads h USING (tenant, service, key) WHERE v.version > h.version - ?",
            (self.history_limit,)).fetchone()[0]
        newest = self._write.execute("SELECT coalesce(max(seq), 0) FROM versions").fetchone()[0]
        return bytes_, entries, versions, min(newest, self.change_limit)


def _page(size, cursor):
    rows, weight = [], 0
    for found in cursor:
        row = Row(*found)
        weight += len(row.value or b"")
        if len(rows) == size or (rows and weight > MAX_PAGE_BYTES):
            cursor.close()
            return rows, True
        rows.append(row)
    return rows, False


def _too_late():
    return Failure("OUT_OF_RANGE", "the changes since that position are not kept any more",
                   hint="start again without a position")


def open_store(options):
    """Opens the store that the options name; only this user can read a file that it makes."""
    os.umask(0o077)
    return Store(options["path"], options["history_limit"], options["change_limit"], options["max_value"])
