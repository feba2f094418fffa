"""LangChain's own conformance suite for sandboxes, on a box: `python -m pytest`, with UPSTASH_BOX_BASE_URL and UPSTASH_BOX_API_KEY set."""

from collections.abc import Iterator

import pytest
from langchain_tests.integration_tests import SandboxIntegrationTests
from langchain_upstash_box import UpstashBoxApiClient, UpstashBoxSandbox


class TestUpstashBoxSandbox(SandboxIntegrationTests):
    """The suite as it is published; only where the box comes from is ours."""

    @pytest.fixture(scope="class")
    def sandbox(self) -> Iterator[UpstashBoxSandbox]:
        """One box for the whole suite."""
        sandbox = UpstashBoxSandbox.create(poll_interval=0.1)
        try:
            yield sandbox
        finally:
            with UpstashBoxApiClient() as client:
                client.delete_boxes([sandbox.id])
