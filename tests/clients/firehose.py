"""A nozzle, by websockets: reads a firehose to its end.

Prints the mark of each envelope that has one, and how the server closed.
"""

import ssl
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from dropsonde import envelope_pb2 as v1

endpoint, ca, token, subscription = sys.argv[1:]
headers = {"Authorization": f"bearer {token}"}
context = ssl.create_default_context(cafile=ca)
url = f"{endpoint}/firehose/{subscription}"
with connect(url, ssl=context, additional_headers=headers) as socket:
    print(f"extensions {socket.protocol.extensions}", flush=True)
    try:
        while True:
            envelope = v1.Envelope.FromString(socket.recv(decode=False))
            if "mark" in envelope.tags:
                print(f"got {envelope.tags['mark']}", flush=True)
    except ConnectionClosed as closed:
        print(f"closed {closed.rcvd.code} {closed.rcvd.reason}".rstrip(), flush=True)
