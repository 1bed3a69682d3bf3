//! The envelopes agents send, as prost knows them: package `loggregator.v2`.

#![allow(missing_docs)] // The comments are those of the .proto files, which say what surprises.

include!("generated/loggregator.v2.rs");
