"""What goes on beside the envelopes, by websocket-client: on one connection pings and the
client's close, on another a client that answers no ping.

Prints what the server sent, envelopes aside.
"""

import struct
import sys
import time

import websocket
from websocket import ABNF

endpoint, ca, token, subscription = sys.argv[1:]


def connect():
    return websocket.create_connection(
        f"{endpoint}/firehose/{subscription}",
        header=[f"Authorization: bearer {token}"],
        sslopt={"ca_certs": ca},
    )


def said(opcode, data):
    """Prints a control frame; returns whether it was Close."""
    if opcode == ABNF.OPCODE_PING:
        print("ping", flush=True)
    if opcode == ABNF.OPCODE_PONG:
        print(f"pong {data.decode()}", flush=True)
    if opcode == ABNF.OPCODE_CLOSE:
        code = struct.unpack("!H", data[:2])[0] if data else None
        print(f"closed {code} {data[2:].decode()}".rstrip(), flush=True)
    return opcode == ABNF.OPCODE_CLOSE


# It pings at once; it answers ours; it echoes the code of our Close without the reason.
socket = connect()
opcode, data = None, b""
while opcode != ABNF.OPCODE_PING:
    opcode, data = socket.recv_data(control_frame=True)
said(opcode, data)
socket.ping("are you there?")
socket.send_close(4321, b"enough")
while not said(*socket.recv_data(control_frame=True)):
    pass
socket.shutdown()

# `recv_frame` answers nothing.
socket = connect()
began = time.monotonic()
frame = socket.recv_frame()
while not said(frame.opcode, frame.data):
    frame = socket.recv_frame()
assert time.monotonic() - began > 29, "it was closed too early"
