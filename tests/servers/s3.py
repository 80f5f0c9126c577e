"""moto's S3 server in this process, and boto3 as another program that uses it.

Both are imported when they are used: each process of a test run imports all tests, and runs some.
"""

import logging
import secrets
import threading
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, wraps

CREDENTIALS = {"key": "test", "secret": "test"}


def one_at_a_time(method):
    """moto looks at the condition of a put and then stores it: two at once may both pass."""
    lock = threading.Lock()

    @wraps(method)
    def locked(*args, **kwargs):
        with lock:
            return method(*args, **kwargs)

    return locked


@cache
def _server_class():
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    S3Response.put_object = one_at_a_time(S3Response.put_object)
    return ThreadedMotoServer


def _backend():
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


@contextmanager
def s3_server():
    """The URL of a server of its own."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = _server_class()("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@cache
def client(url):
    """boto3's client of a server."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 0}),
    )


def new_bucket(url):
    """The name of a bucket that nobody else has."""
    name = f"b-{secrets.token_hex(8)}"
    client(url).create_bucket(Bucket=name)
    return name


def fill(bucket, objects):
    """Put many objects past HTTP, on the server of this process; None removes one."""
    backend = _backend()
    for key, value in objects.items():
        if value is None:
            backend.delete_object(bucket, key)
        else:
            backend.put_object(bucket, key, value)


def spread(bucket):
    """Give the versions times a second apart, in the order in which they were made.

    moto lists them with whole seconds, and all deletes after all puts.
    """
    keys = _backend().buckets[bucket].keys
    versions = [version for _, versions in keys.iterlists() for version in versions]
    versions.sort(key=lambda version: version.last_modified)
    newest = versions[-1].last_modified
    for age, version in enumerate(reversed(versions)):
        version.last_modified = newest - timedelta(seconds=age)
