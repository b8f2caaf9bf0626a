"""Whose request this task answers: for log lines and records. Set only where a setting asks for one of them."""

from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")
CALLER: ContextVar[str] = ContextVar("caller", default="")
