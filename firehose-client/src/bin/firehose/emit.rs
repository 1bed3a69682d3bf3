//! `firehose emit`: lines in, an app's logs out.

use std::io;
use std::path::PathBuf;

use firehose_client::v2::log;
use firehose_client::{Emitter, Source};
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::oneshot;

use crate::args::Emit;
use crate::exit::Failure;
use crate::notes::Notes;

/// The longest log: 60 KiB, where Diego splits a line. More than 64 KiB in a message ends the
/// stream of a Java client.
const LONGEST: u64 = 60 * 1024;

/// Sends the input to its end, or what has been read of it when `stop` says so.
pub(crate) async fn emit(
    emit: Emit,
    notes: Notes,
    stop: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let (name, input): (_, Box<dyn AsyncRead + Send + Unpin>) = match &emit.file {
        None => (PathBuf::from("stdin"), Box::new(tokio::io::stdin())),
        Some(path) => match File::open(path).await {
            Ok(file) => (path.clone(), Box::new(file)),
            Err(source) => return Err(unreadable(path.clone(), source)),
        },
    };
    let source = Source {
        app: emit.app.clone(),
        source_type: emit.source_type.clone(),
        instance: emit.instance.clone(),
    };
    let stream = if emit.stderr {
        log::Type::Err
    } else {
        log::Type::Out
    };

    let mut emitter = emit.emitter().connect().await?;
    let lines = send(
        &mut emitter,
        BufReader::with_capacity(64 * 1024, input),
        &source,
        stream,
    );
    let sent = tokio::select! {
        sent = lines => sent,
        _ = stop => Ok(()),
    };
    match sent {
        Ok(()) => {}
        Err(Trouble::Reading(source)) => {
            emitter.close().await?;
            return Err(unreadable(name, source));
        }
        Err(Trouble::Sending(error)) => return Err(error.into()),
    }
    let sent = emitter.close().await?;
    notes.say(format_args!("sent {sent} envelopes"));
    Ok(())
}

enum Trouble {
    Reading(io::Error),
    Sending(firehose_client::EmitError),
}

async fn send(
    emitter: &mut Emitter,
    mut input: impl AsyncBufRead + Unpin,
    source: &Source,
    stream: log::Type,
) -> Result<(), Trouble> {
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut input).take(LONGEST);
        let read = limited.read_until(b'\n', &mut line).await;
        if read.map_err(Trouble::Reading)? == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        }
        emitter
            .log(source, stream, line)
            .await
            .map_err(Trouble::Sending)?;
    }
}

fn unreadable(path: PathBuf, source: io::Error) -> Failure {
    Failure::Input { path, source }
}
