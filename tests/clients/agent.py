"""An agent, by grpcio and code generated from our .proto files, over mTLS.

Sends COUNT log lines by each call that a Doppler takes, for apps 0 and 1 in turns, and prints
the mark of each: CALL/SEQUENCE/APP, where calls count from FIRST. As real agents do it never half-closes, until its stdin
ends; then it prints how each call ended.
"""

import sys
import threading
import time

import grpc

import plumbing_pb2
import plumbing_pb2_grpc
from dropsonde import envelope_pb2 as v1
from dropsonde import log_pb2
from loggregator.v2 import envelope_pb2 as v2
from loggregator.v2 import ingress_pb2, ingress_pb2_grpc

doppler, ca, cert, key, first, count = sys.argv[1:]
first = int(first)
sys.stdout.reconfigure(line_buffering=True)
done = threading.Event()


def guid(app):
    return f"{app:08x}-0000-4000-8000-{app:012x}"


def marks(call):
    """What is to be sent, and then a wait for the end."""
    for sequence in range(int(count)):
        app = sequence % 2
        mark = f"{call}/{sequence}/{app}"
        # In one piece: grpcio asks for each call's messages on a thread of its own.
        sys.stdout.write(f"sent {mark}\n")
        yield mark, guid(app)
    done.wait()


def as_v2(call):
    for mark, app in marks(call):
        yield v2.Envelope(
            timestamp=time.time_ns(),
            source_id=app,
            instance_id="0",
            tags={"mark": mark, "origin": "test"},
            log=v2.Log(payload=mark.encode()),
        )


def as_v1(call):
    for mark, app in marks(call):
        envelope = v1.Envelope(
            origin="test",
            eventType=v1.Envelope.LogMessage,
            timestamp=time.time_ns(),
            tags={"mark": mark},
            logMessage=log_pb2.LogMessage(
                message=mark.encode(),
                message_type=log_pb2.LogMessage.OUT,
                timestamp=time.time_ns(),
                app_id=app,
                source_instance="0",
            ),
        )
        yield plumbing_pb2.EnvelopeData(payload=envelope.SerializeToString())


def batches(call):
    for envelope in as_v2(call):
        yield v2.EnvelopeBatch(batch=[envelope])


def read(path):
    with open(path, "rb") as file:
        return file.read()


credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
options = [("grpc.ssl_target_name_override", "doppler")]
with grpc.secure_channel(doppler, credentials, options) as channel:
    ingress = ingress_pb2_grpc.IngressStub(channel)
    before_v2 = plumbing_pb2_grpc.DopplerIngestorStub(channel)
    by_its_old_name = channel.stream_stream(
        "/loggregator.v2.DopplerIngress/BatchSender",
        request_serializer=v2.EnvelopeBatch.SerializeToString,
        response_deserializer=ingress_pb2.BatchSenderResponse.FromString,
    )
    batch_senders = {
        "BatchSender": ingress.BatchSender(batches(first)),
        "BatchSender of DopplerIngress": by_its_old_name(batches(first + 1)),
    }
    others = {
        "Sender": ingress.Sender.future(as_v2(first + 2)),
        "Pusher": before_v2.Pusher.future(as_v1(first + 3)),
    }
    sys.stdin.read()
    done.set()
    for answers in batch_senders.values():
        # A call has a code only when all that it answers was read.
        for _ in answers:
            pass
    for name, call in (batch_senders | others).items():
        print(f"ended {call.code().name} {name}")
