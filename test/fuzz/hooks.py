"""Teaches the fuzzer to send the parts of an upload, whose media type is the tus protocol's own."""
import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
