"""A store that speaks S3 on this machine's loopback (moto's server), and ways to disturb it."""

import itertools
import logging
import os
from collections.abc import Iterator

import pytest
from proxy import Proxy

logging.getLogger("werkzeug").setLevel(logging.ERROR)

KEYS = {
    "AWS_ACCESS_KEY_ID": "key-of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    """The URL of a new bucket; this process and those it starts know how to reach it."""
    import boto3

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    host, port = s3_server
    endpoint = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    name = f"bucket-{next(_NUMBERS)}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def proxy(s3_server) -> Iterator[Proxy]:
    """A way to the server that can be cut; for commands, in the environment `proxy.environment`."""
    with Proxy(s3_server) as made:
        made.environment = {**os.environ, **KEYS, "AWS_ENDPOINT_URL": made.endpoint}
        yield made
