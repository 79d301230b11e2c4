"""Errors as the protocol has them: a code of a closed list, and a text for people."""

import sqlite3

import grpc
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status
from tagstore.error.v1 import error_pb2

_STATUS = {
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "INVALID_ARGUMENT": grpc.StatusCode.INVALID_ARGUMENT,
    "CONFLICT": grpc.StatusCode.ABORTED,
    "RESOURCE_EXHAUSTED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "FAILED_PRECONDITION": grpc.StatusCode.FAILED_PRECONDITION,
    "OUT_OF_RANGE": grpc.StatusCode.OUT_OF_RANGE,
    "UNIMPLEMENTED": grpc.StatusCode.UNIMPLEMENTED,
    "INTERNAL": grpc.StatusCode.INTERNAL,
    "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "OUTCOME_UNKNOWN": grpc.StatusCode.UNAVAILABLE,
    "DATA_LOSS": grpc.StatusCode.DATA_LOSS,
}


class Failure(Exception):
    """An error of the protocol. Its texts hold no value and no tenant."""

    def __init__(self, code, message, *, hint="", version=0, op="", key=""):
        super().__init__(message)
        self.code = code
        self.detail = error_pb2.ErrorDetail(
            code=error_pb2.Code.Value("CODE_" + code), message=message, hint=hint,
            current_version=version, op=op, key=key)

    def about(self, op, key=""):
        """Names the operation and the key, where that was not done further in."""
        self.detail.op = self.detail.op or op
        self.detail.key = self.detail.key or key
        return self

    def status(self):
        """The gRPC status, with the detail in its trailing metadata."""
        packed = any_pb2.Any()
        packed.Pack(self.detail)
        return rpc_status.to_status(status_pb2.Status(
            code=_STATUS[self.code].value[0], message=self.detail.message, details=[packed]))


def not_found():
    """One text for a key that never was and for one that is deleted."""
    return Failure("NOT_FOUND", "there is no such value")


def of_sqlite(error, writing):
    """What an error of SQLite means to the caller, or None for a bug of ours."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return Failure("RESOURCE_EXHAUSTED", "the disk is full", hint="free space: writes go on by themselves")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Failure("UNAVAILABLE", "another process holds the data file's write lock", hint="retry")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Failure("DATA_LOSS", "the data file is damaged", hint="restore a backup")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
        return Failure("FAILED_PRECONDITION", "the data file can not be opened or written",
                       hint="its folder must be there, and both must be this user's")
    if name.startswith("SQLITE_IOERR"):
        if writing:
            return Failure("OUTCOME_UNKNOWN", "the disk failed in a write", hint="check the disk and read before writing again")
        return Failure("UNAVAILABLE", "the data file could not be read", hint="check the disk")
    assert isinstance(error, sqlite3.Error)
    return None
