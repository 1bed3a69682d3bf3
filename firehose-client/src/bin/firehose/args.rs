//! What a person can say to `firehose`, and where else it looks. The only file that reads the
//! environment.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use firehose_client::{CfCli, Emitter, EmitterBuilder, Filter, Identity, Token, Trust};
use transport::clock::seconds;
use transport::losses::HISTORY;

use crate::why::About;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXIT_CODES: &str = "\
Exit codes:
  0  done; also after Ctrl-C, or when whoever reads our output has left
  1  something unexpected
  2  the command line makes no sense
  3  could not connect; `why`: some admin listener could not be asked
  4  the token was refused (401, 403), or the login has ended: run `cf login`
  5  no such app, or not one you may see
  6  `doctor`: something to mend was found";

const SOURCES: &str = "\
Where to connect, and as whom:
  endpoint    --endpoint, else DOPPLER_ADDR, else where the cf CLI is logged in
  token       --token-file, else --token, else CF_ACCESS_TOKEN, else the cf CLI's login. Its
              token is renewed when it ends, and shown only to the platform it is for.
  app         a GUID, or a name in the space that `cf target` shows
  cf CLI      $CF_HOME/.cf/config.json, else ~/.cf/config.json; renewed tokens are written
              back, and `--skip-ssl-validation` of `cf login` holds here too";

/// Reads and feeds Loggregator, the logs and metrics of a Cloud Foundry.
///
/// Data goes to stdout, everything else to stderr.
#[derive(Parser, Debug)]
#[command(version = transport::process::VERSION, styles = STYLES, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say nothing on stderr but errors.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Tail(Tail),
    Subscribe(Subscribe),
    Emit(Emit),
    Why(Why),
    Bench(Bench),
    Doctor(Doctor),
    Completions(Completions),
}

/// Show what one app logs, and its requests and containers, as it happens.
#[derive(Args, Debug)]
#[command(after_help = format!("{SOURCES}\n\n{EXIT_CODES}"))]
pub(crate) struct Tail {
    /// The app: its name in the space that the cf CLI targets, or its GUID.
    pub(crate) app: String,

    /// Begin with this many of the newest logs.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) recent: Option<u32>,

    /// One JSON object a line instead; see `firehose subscribe --help` for its fields.
    #[arg(long)]
    pub(crate) json: bool,

    /// When to colour.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Color,

    #[command(flatten)]
    pub(crate) limit: Limit,

    #[command(flatten)]
    pub(crate) server: Server,

    /// Any value but the empty one means no colour, by <https://no-color.org>.
    #[arg(long, env = "NO_COLOR", hide = true)]
    no_color: Option<String>,
}

const FIELDS: &str = "\
JSON fields:
  type        LogMessage, HttpStartStop, ContainerMetric, CounterEvent, ValueMetric or Error
  timestamp   RFC 3339 in UTC with nanoseconds, like all times
  origin, deployment, job, index, ip
              who sent it, as far as known
  tags        everything else that is known about it, by name
  and one of
  log         stream (OUT or ERR), message, message_base64 (only where the message is not
              UTF-8, and `message` has U+FFFD in it), timestamp, app_id, source_type,
              source_instance
  http        method, uri, status, start, stop, peer_type (Client or Server), app_id,
              instance_index, instance_id, content_length, remote_address, forwarded,
              user_agent, request_id
  container   app_id, instance_index, cpu_percent, memory_bytes, memory_bytes_quota,
              disk_bytes, disk_bytes_quota
  counter     name, delta, total
  value       name, value (null if it is not a number), unit
  error       source, code, message
What is not known is not there. Fields are added in later versions, never renamed.";

/// Show the firehose: the logs and metrics of the whole platform.
///
/// Those who subscribe with the same id share the envelopes, each id gets all of them.
#[derive(Args, Debug)]
#[command(
    after_help = format!("{SOURCES}\n\n{EXIT_CODES}"),
    after_long_help = format!("{FIELDS}\n\n{SOURCES}\n\n{EXIT_CODES}")
)]
pub(crate) struct Subscribe {
    /// Subscription id; choose one that nobody else uses, or you take their envelopes.
    #[arg(long)]
    pub(crate) id: String,

    /// Only these envelopes.
    #[arg(long, value_name = "TYPE")]
    filter_type: Option<FilterType>,

    /// How to print them.
    #[arg(long, short, value_name = "FORMAT", default_value = "json")]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) limit: Limit,

    #[command(flatten)]
    pub(crate) server: Server,
}

/// Send lines of text as an app's logs.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Emit {
    /// File to send, one log a line [default: stdin].
    pub(crate) file: Option<PathBuf>,

    /// Doppler to send to.
    ///
    /// Plain text to this machine; with --ca, --cert and --key mutual TLS to any.
    #[arg(long, value_name = "HOST:PORT")]
    doppler: String,

    /// GUID of the app.
    #[arg(long, value_name = "GUID")]
    pub(crate) app: String,

    /// What in the app wrote the lines.
    #[arg(long, value_name = "TYPE", default_value = "APP/PROC/WEB")]
    pub(crate) source_type: String,

    /// Which instance of it wrote them.
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    pub(crate) instance: String,

    /// Send them as ERR, not OUT.
    #[arg(long)]
    pub(crate) stderr: bool,

    /// PEM file with the CA of the Doppler's certificate.
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,

    /// PEM file with our certificate.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,

    /// PEM file with our private key.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "cert"])]
    key: Option<PathBuf>,

    /// Name in the Doppler's certificate; an agent's is `metron`.
    #[arg(long, value_name = "NAME", default_value = "doppler")]
    server_name: String,
}

/// Say where, when and why envelopes were lost, and what to do: for operators.
///
/// Dopplers and Traffic Controllers remember an hour, each for itself: ask them all. What of
/// them could not be asked is said, and the exit code is 3.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Why {
    /// Only what was lost of this app: by those who tail it, and at the door.
    #[arg(long, value_name = "GUID", conflicts_with = "subscription")]
    pub(crate) app: Option<String>,

    /// Only what was lost by the firehose with this subscription id.
    #[arg(long, value_name = "ID")]
    pub(crate) subscription: Option<String>,

    /// How far to look back, at most 1h.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = within_the_history)]
    pub(crate) since: Duration,

    /// Admin listeners: HOST:PORT, or a URL, of each Doppler and Traffic Controller, separated by
    /// commas or repeated. They say where it is when they start, as `pprof bound to:`.
    #[arg(
        long,
        value_name = "URL",
        env = "FIREHOSE_ADMIN",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) admin: Vec<String>,

    /// One JSON object instead: the pages `/losses` of all that answered.
    #[arg(long)]
    pub(crate) json: bool,
}

fn within_the_history(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        since if since > HISTORY => Err("losses are kept for an hour: 1h at most".to_owned()),
        since => Ok(since),
    }
}

/// Measure how many envelopes a reader on this machine can read: for whoever plans a nozzle.
///
/// Alone it reads from itself, without TLS. With --id it also reads that firehose as a nozzle
/// does, over the network and TLS, and says how far behind it is, what was lost, and how many
/// readers the firehose takes.
#[derive(Args, Debug)]
#[command(after_help = format!("{SOURCES}\n\n{EXIT_CODES}"))]
pub(crate) struct Bench {
    /// Seconds to measure in all.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = some_time)]
    pub(crate) seconds: Duration,

    /// Also read the firehose under this subscription id; choose one that nobody else uses, or
    /// you take their envelopes.
    #[arg(long)]
    pub(crate) id: Option<String>,

    /// Of the firehose, only these envelopes.
    #[arg(long, value_name = "TYPE", requires = "id")]
    filter_type: Option<FilterType>,

    /// Envelopes a second to say the number of readers for [default: those of the firehose's
    /// busiest second].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) rate: Option<u64>,

    /// One JSON object instead.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) server: Server,
}

fn some_time(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        Duration::ZERO => Err("nothing can be measured in no time".to_owned()),
        time => Ok(time),
    }
}

const SIGHT: &str = "\
What it can see and what not:
  Each step may take as long as --connect-timeout says. What is not looked at is said, as
  `unknown`. Without a token it comes as far as the 401 of the Traffic Controller: whether Upgrade
  comes through is seen only by one who may read. The token is shown to nobody whose certificate
  is not good, and stands in no output. What forwarded headers arrive, a Traffic Controller has to
  tell; not every one does.
  --idle holds two connections open. In one a ping is sent every second: what cuts it limits how
  long a stream may live, and is found if that is shorter than --idle. In the other nothing is
  said, not even an answer to the pings of the Traffic Controller, for at most 25 s, since after
  30 s that hangs up by itself: what cuts it is an idle limit. Longer ones are not seen and cut
  nobody, as a ping comes every 15 s. Give --app with an app that is quiet: on a stream that never
  is, there is no idleness to see.
  It says what it sees from here. Other clients may come another way.";

/// Find what is wrong on the way to the Traffic Controller: for operators of load balancers.
///
/// Looks at DNS, TCP, TLS, HTTP, WebSocket and pings, one after the other, and says what to change
/// in HAProxy, nginx, Envoy, gorouter or at AWS. It reads for a few seconds: the firehose with a
/// subscription id of its own, or the app.
#[derive(Args, Debug)]
#[command(
    after_help = format!("{SOURCES}\n\n{EXIT_CODES}"),
    after_long_help = format!("{SIGHT}\n\n{SOURCES}\n\n{EXIT_CODES}")
)]
pub(crate) struct Doctor {
    /// The same as --endpoint; counts more.
    #[arg(value_name = "URL")]
    url: Option<String>,

    /// Read this app instead of the firehose: its name in the space that the cf CLI targets, or
    /// its GUID.
    #[arg(long)]
    pub(crate) app: Option<String>,

    /// Also look for so many seconds whether a stream with nothing to say is cut; 0 does not.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub(crate) idle: Duration,

    /// One JSON object instead, at the end.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) server: Server,
}

/// Print what makes a shell complete these commands.
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    pub(crate) shell: Shell,
}

/// Where Loggregator is, and why it should let us in.
#[derive(Args, Debug)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Server {
    /// URL of the Traffic Controller or its balancer: wss://HOST or wss://HOST:PORT.
    ///
    /// `cf curl /` tells it as `links.logging.href`. Without it, that of the platform the cf CLI
    /// is logged in to.
    #[arg(long, value_name = "URL", env = "DOPPLER_ADDR")]
    pub(crate) endpoint: Option<String>,

    /// Token, as `cf oauth-token` prints it; the empty one shows none. Others on this machine
    /// can see your command line: better in the environment or a file.
    #[arg(long, env = "CF_ACCESS_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// File with the token, read again for each connection; counts more than --token.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// PEM file with the only CAs to trust [default: those of this system].
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Check no certificate: anyone on the way can read the token and the logs.
    #[arg(long, conflicts_with = "ca")]
    pub(crate) skip_cert_verify: bool,

    /// Send the token in plain text over the network to a ws:// endpoint.
    #[arg(long)]
    pub(crate) insecure_plain_text: bool,

    /// Folder whose `.cf/config.json` is the cf CLI's [default: your home].
    #[arg(long, value_name = "FOLDER", env = "CF_HOME")]
    cf_home: Option<PathBuf>,

    /// The user's home; as the cf CLI, we believe the environment.
    #[arg(long, env = "HOME", hide = true)]
    home: Option<PathBuf>,

    /// Seconds to keep trying for the first connection; 0 tries once. One that is lost later is
    /// tried again for ever.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) connect_timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Limit {
    /// Stop after this many envelopes.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) max: Option<u64>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Color {
    /// When stdout is a terminal and NO_COLOR is not set.
    Auto,
    Always,
    Never,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum FilterType {
    /// LogMessages.
    Logs,
    /// Everything else.
    Metrics,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One object a line.
    Json,
    /// As they came: each a varint with its length, and a v1 `events.Envelope`.
    Protobuf,
    /// How many came in each second, by type.
    Counts,
}

impl Server {
    /// The cf CLI's file. Variables that are set and empty are as good as not set.
    pub(crate) fn cf_cli_path(&self) -> Option<PathBuf> {
        let set = |path: &&PathBuf| !path.as_os_str().is_empty();
        let home = self.cf_home.as_ref().filter(set);
        let home = home.or_else(|| self.home.as_ref().filter(set));
        home.map(|home| CfCli::path_in(home))
    }

    /// Whom the command line says to trust.
    pub(crate) fn trust(&self) -> Trust {
        match &self.ca {
            _ if self.skip_cert_verify => Trust::Anyone,
            Some(path) => Trust::Ca(path.clone()),
            None => Trust::System,
        }
    }

    /// The token it gives: `Some(None)` if it says that none is to be shown.
    pub(crate) fn token(&self) -> Option<Option<Token>> {
        if let Some(path) = &self.token_file {
            return Some(Some(Token::File(path.clone())));
        }
        let token = self.token.as_ref()?;
        Some((!token.is_empty()).then(|| Token::Fixed(token.clone())))
    }
}

impl Tail {
    /// Whether to colour.
    pub(crate) fn coloured(&self) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let unwanted = self
                    .no_color
                    .as_ref()
                    .is_some_and(|value| !value.is_empty());
                std::io::stdout().is_terminal() && !unwanted
            }
        }
    }
}

impl FilterType {
    fn filter(asked: Option<FilterType>) -> Filter {
        match asked {
            None => Filter::Everything,
            Some(FilterType::Logs) => Filter::Logs,
            Some(FilterType::Metrics) => Filter::Metrics,
        }
    }
}

impl Subscribe {
    /// Which envelopes.
    pub(crate) fn filter(&self) -> Filter {
        FilterType::filter(self.filter_type)
    }
}

impl Bench {
    /// Which envelopes.
    pub(crate) fn filter(&self) -> Filter {
        FilterType::filter(self.filter_type)
    }
}

impl Doctor {
    /// The same, with the URL where the other commands have it.
    pub(crate) fn straightened(mut self) -> Doctor {
        if let Some(url) = self.url.take() {
            self.server.endpoint = Some(url);
        }
        self
    }
}

impl Why {
    /// What the question is about.
    pub(crate) fn about(&self) -> About {
        match (&self.app, &self.subscription) {
            (Some(app), _) => About::App(app.clone()),
            (None, Some(id)) => About::Subscription(id.clone()),
            (None, None) => About::All,
        }
    }
}

impl Emit {
    /// The library's emitter for these settings.
    pub(crate) fn emitter(&self) -> EmitterBuilder {
        let builder = Emitter::builder(&self.doppler).server_name(&self.server_name);
        match (&self.ca, &self.cert, &self.key) {
            (Some(ca), Some(cert), Some(key)) => {
                let (cert, key) = (cert.clone(), key.clone());
                builder.mtls(ca, Identity { cert, key })
            }
            _ => builder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_certificate_is_given_with_its_key_and_a_ca_or_not_at_all() {
        let emit = ["firehose", "emit", "--doppler", "d:1", "--app", "a"];
        for part in ["--ca", "--cert", "--key"] {
            let given = emit.iter().copied().chain([part, "x"]);
            assert!(Cli::try_parse_from(given).is_err(), "{part} alone");
        }
        assert!(Cli::try_parse_from(emit).is_ok());
    }
}
