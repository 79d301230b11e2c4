"""Serves moto on 127.0.0.1:PORT, as `moto_server` does, with four differences
that tests rely on:

- One request at a time per AWS service. moto looks whether a condition holds
  and then writes, with nothing in between that keeps other threads out; here a
  conditional write is atomic, as it is at AWS. SQS is left out: its long poll
  would hold the lock.
- It is quiet. Only a request on which moto itself fails is logged, with the
  end of the stack; its answer, a 500, says the same.
- It forgets what is gone. moto keeps every item, object and version that was
  ever made, for a page that lists them; that page is empty here.
- It does not do for every request what takes two fifths of its time: look
  into the file system for the services that there are, and copy every object
  of a bucket, with its bytes, to list its versions.
"""

import copy
import gc
import io
import logging
import re
import signal
import sys
import threading
import traceback
import types

import moto.backends
import moto.s3.models
from moto.core.common_models import BaseModel
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    create_backend_app,
)
from werkzeug.serving import make_server

# The service in the credential scope of a signature, in the header or in the
# query of a presigned request: KEY/DATE/REGION/SERVICE/aws4_request.
SCOPE = re.compile(r"Credential=[^/]+/\d{8}/[^/]+/([a-z0-9-]+)/aws4_request")


# After so many bytes of requests, what they have replaced is looked for. Large
# values are in few Python objects, whose number is what the collector goes by.
COLLECT = 64 << 20


class OneAtATime:
    """Lets one request per service into the application."""

    def __init__(self, app):
        self.app = app
        self.guard = threading.Lock()
        self.locks = {}
        self.received = 0

    def collect(self, size):
        with self.guard:
            self.received += size
            if self.received < COLLECT:
                return
            self.received = 0
        gc.collect()

    def lock(self, service):
        with self.guard:
            return self.locks.setdefault(service, threading.Lock())

    def __call__(self, environ, start_response):
        query = environ.get("QUERY_STRING", "").replace("%2F", "/")
        scope = SCOPE.search(environ.get("HTTP_AUTHORIZATION") or query)
        if scope is None or scope.group(1) == "sqs":
            return self.app(environ, start_response)
        # The body is read before the lock is taken: a client that sends
        # slowly, or stops, keeps nobody else waiting.
        body = environ["wsgi.input"]
        if environ.get("wsgi.input_terminated"):
            data = body.read()
        else:
            data = body.read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(data)
        self.collect(len(data))
        with self.lock(scope.group(1)):
            answer = self.app(environ, start_response)
            try:
                return [b"".join(answer)]
            finally:
                if hasattr(answer, "close"):
                    answer.close()


class Failures:
    """Turns what the application raises into a short log and an answer."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        try:
            return self.app(environ, start_response)
        except Exception as error:
            what = "%s %s %s" % (
                environ.get("REQUEST_METHOD"),
                environ.get("PATH_INFO"),
                environ.get("HTTP_X_AMZ_TARGET", ""),
            )
            stack = "".join(traceback.format_exception(error, limit=-3))
            sys.stderr.write("moto failed on %s: %s" % (what, stack))
            sys.stderr.flush()
            text = "moto failed: %s: %s\n" % (type(error).__name__, error)
            body = text.encode()
            headers = [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(body))),
            ]
            start_response("500 Internal Server Error", headers, sys.exc_info())
            return [body]


def forget_instances():
    """Makes models that are not kept in a list of all of their class."""
    BaseModel.__new__ = lambda cls, *args, **kwargs: object.__new__(cls)


def spare_work():
    services = frozenset(moto.backends.list_of_moto_modules())
    moto.backends.list_of_moto_modules = lambda: services
    # The copies are to be told which of them is the latest, which nothing else
    # looks at, and is found anew for each list.
    moto.s3.models.copy = types.SimpleNamespace(
        copy=copy.copy, deepcopy=lambda versions: versions
    )


def main():
    port = int(sys.argv[1])
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    forget_instances()
    spare_work()
    dispatcher = DomainDispatcherApplication(create_backend_app)
    app = Failures(OneAtATime(dispatcher))
    server = make_server("127.0.0.1", port, app, threaded=True)
    # A thread per connection: none of them may keep the process from ending.
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    gc.freeze()
    server.serve_forever()


if __name__ == "__main__":
    main()
