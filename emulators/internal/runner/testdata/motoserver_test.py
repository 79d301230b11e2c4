"""Tests of what motoserver.py puts around moto."""

import gc
import io
import sys
import threading
import unittest
import weakref

sys.path.insert(0, sys.argv.pop(1))
import motoserver  # noqa: E402


def call(service, body=b""):
    scope = "Credential=key/20200101/us-east-1/%s/aws4_request" % service
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "HTTP_AUTHORIZATION": "AWS4-HMAC-SHA256 %s, Signature=0" % scope,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }


class Server(unittest.TestCase):
    def entered(self, first, second):
        """Whether second comes in while first is inside."""
        inside, let_go = threading.Event(), threading.Event()
        both = threading.Event()

        def app(environ, start_response):
            if environ is first:
                inside.set()
                let_go.wait(30)
            else:
                both.set()
            return [environ["wsgi.input"].read()]

        server = motoserver.OneAtATime(app)
        one = threading.Thread(target=server, args=(first, None))
        other = threading.Thread(target=server, args=(second, None))
        one.start()
        self.assertTrue(inside.wait(30))
        other.start()
        # The answer "no" has no event to wait for.
        while_inside = both.wait(0.3)
        let_go.set()
        one.join(30)
        other.join(30)
        self.assertTrue(both.is_set())
        return while_inside

    def test_one_service(self):
        self.assertFalse(self.entered(call("dynamodb"), call("dynamodb")))
        self.assertFalse(self.entered(call("s3"), call("s3")))

    def test_presigned(self):
        presigned = call("s3")
        del presigned["HTTP_AUTHORIZATION"]
        presigned["QUERY_STRING"] = (
            "X-Amz-Credential=key%2F20200101%2Fus-east-1%2Fs3%2Faws4_request&a=b"
        )
        self.assertFalse(self.entered(call("s3"), presigned))

    def test_others_pass(self):
        self.assertTrue(self.entered(call("dynamodb"), call("ssm")))
        self.assertTrue(self.entered(call("sqs"), call("sqs")))
        unsigned = call("ssm")
        del unsigned["HTTP_AUTHORIZATION"]
        self.assertTrue(self.entered(call("ssm"), unsigned))

    def test_a_slow_body_holds_nobody_up(self):
        reading, let_go = threading.Event(), threading.Event()

        class Slow(io.BytesIO):
            def read(self, size=-1):
                reading.set()
                let_go.wait(30)
                return super().read(size)

        server = motoserver.OneAtATime(lambda e, _: [e["wsgi.input"].read()])
        slow = dict(call("ssm", b"slow"), **{"wsgi.input": Slow(b"slow")})
        answers = []
        one = threading.Thread(target=lambda: answers.append(server(slow, None)))
        one.start()
        self.assertTrue(reading.wait(30))
        self.assertEqual(server(call("ssm", b"quick"), None), [b"quick"])
        let_go.set()
        one.join(30)
        self.assertEqual(answers, [[b"slow"]])

    def test_a_failure_frees_the_lock_and_is_told(self):
        def app(environ, start_response):
            raise NotImplementedError("the thing")

        told = []
        log, sys.stderr = sys.stderr, io.StringIO()
        try:
            server = motoserver.Failures(motoserver.OneAtATime(app))
            for _ in range(2):
                body = server(call("ssm"), lambda status, *_: told.append(status))
                self.assertIn(b"NotImplementedError: the thing", b"".join(body))
            self.assertIn("moto failed on POST /", sys.stderr.getvalue())
        finally:
            sys.stderr = log
        self.assertEqual(told, ["500 Internal Server Error"] * 2)

    def test_instances_are_forgotten(self):
        class Thing(motoserver.BaseModel):
            __module__ = "moto.test.models"

            def __init__(self, name, *, size=0):
                self.name, self.size = name, size

        class Cyclic(Thing):
            __module__ = "moto.test.models"

        Thing("before")
        self.assertEqual(len(Thing.instances_tracked), 1)  # what moto does
        motoserver.forget_instances()
        thing = Cyclic("after", size=3)
        self.assertEqual((thing.name, thing.size), ("after", 3))
        self.assertEqual(Cyclic.instances_tracked, [])

        # Nor does a cycle keep it, once enough was received.
        thing.itself = thing
        gone = weakref.ref(thing)
        del thing
        server = motoserver.OneAtATime(lambda *_: [])
        gc.disable()
        try:
            server.collect(motoserver.COLLECT - 1)
            self.assertIsNotNone(gone())
            server.collect(1)
            self.assertIsNone(gone())
        finally:
            gc.enable()

    def test_what_is_spared_is_not_missed(self):
        modules = set(motoserver.moto.backends.list_of_moto_modules())
        motoserver.spare_work()
        self.assertEqual(modules, set(motoserver.moto.backends.list_of_moto_modules()))

        s3 = motoserver.moto.s3.models.S3Backend("us-east-1", "123456789012")
        s3.create_bucket("bucket", "us-east-1")
        s3.put_bucket_versioning("bucket", "Enabled")
        for number, value in enumerate((b"1", b"2", b"3"), 1):
            s3.put_object("bucket", "k", value)
            versions = s3.list_object_versions("bucket")[0]
            latest = [v.value for v in versions if v.is_latest]
            self.assertEqual((latest, len(versions)), ([value], number))


if __name__ == "__main__":
    unittest.main()
