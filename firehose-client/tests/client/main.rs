//! The library and the command against servers that do what a test says, over real sockets.

#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod authority;
mod bench;
mod certificates;
mod cf_login;
mod command;
mod doctor;
mod doppler;
mod emitter;
mod login;
mod stream;
mod traffic_controller;
