//! What an operator set, and where: a flag wins over the environment, that over a file, that
//! over the default.
//!
//! In come a program's definition for clap, the names its settings have in BOSH, its arguments
//! and its environment; out come its settings, or every mistake there is, each with the name
//! the operator gave it. A value is judged by clap wherever it came from, so that a port is the
//! same thing in a file and on the command line. A secret is shown nowhere.

use clap::builder::{OsStringValueParser, Resettable};
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cause::chain;
use crate::tls::{self, Identity, TlsError};

/// The settings of a program, as clap derives them, and what clap does not know of them.
///
/// Of two settings that need each other neither can be `required` in clap, or the first such
/// mistake would hide the others: [`Settings::contradictions`] says it.
pub trait Settings: CommandFactory + FromArgMatches {
    /// Their names in a file. Of two for the same argument the later one wins.
    const PROPERTIES: &'static [Property];

    /// Those that BOSH makes of several properties.
    const COMBINATIONS: &'static [Combination];

    /// Everything that is right by itself and wrong together.
    fn contradictions(&self) -> Vec<String>;
}

/// A name in a file.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    /// As in a BOSH manifest, below `properties`.
    pub name: &'static str,
    /// What it sets.
    pub sets: Sets,
}

/// What a property sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sets {
    /// The argument with that id.
    Argument(&'static str),
    /// The argument with that id, which is a path to a PEM file: to that path, or to the PEM
    /// text itself, as BOSH has it.
    Pem(&'static str),
    /// Nothing here; BOSH itself looks at it.
    Nothing,
}

/// An argument that BOSH makes of several properties.
#[derive(Debug, Clone, Copy)]
pub struct Combination {
    /// The id of the argument.
    pub argument: &'static str,
    /// The properties.
    pub of: &'static [&'static str],
    /// Its value, if these (in the order of `of`) give one.
    pub make: fn(&[Option<&str>]) -> Option<String>,
}

/// A property that is the value of an argument.
pub const fn value(name: &'static str, argument: &'static str) -> Property {
    let sets = Sets::Argument(argument);
    Property { name, sets }
}

/// A property that is PEM text, or the path to it.
pub const fn pem(name: &'static str, argument: &'static str) -> Property {
    let sets = Sets::Pem(argument);
    Property { name, sets }
}

/// A property that is known, and sets nothing.
pub const fn nothing(name: &'static str) -> Property {
    let sets = Sets::Nothing;
    Property { name, sets }
}

/// What to say before the process ends instead of running.
#[derive(Debug, PartialEq, Eq)]
pub enum Over {
    /// What was asked for.
    Told(String),
    /// Mistakes, with the exit code they have.
    Mistaken(Vec<String>, u8),
}

impl Over {
    /// Says it, on stdout what was asked for and on stderr what is wrong; returns the exit
    /// code.
    pub fn say(self) -> ExitCode {
        let (said, code) = match &self {
            Over::Told(text) => (write!(io::stdout(), "{text}"), 0),
            Over::Mistaken(_, code) => (writeln!(io::stderr(), "{self}"), *code),
        };
        match said {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
            _ => ExitCode::from(code),
        }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Over::Told(text) => f.write_str(text),
            Over::Mistaken(mistakes, _) => {
                let lines = mistakes.iter().map(|mistake| format!("error: {mistake}"));
                f.write_str(&lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

/// The exit code of a program whose settings are wrong, as clap's.
const WRONG: u8 = 2;

/// The exit code of `--check-config` when something is wrong.
const CHECKED_WRONG: u8 = 1;

/// The flags that every program has beside its settings.
const CONFIG: &str = "config";
const CHECK_CONFIG: &str = "check_config";
const PRINT_CONFIG: &str = "print_config";

/// Reads the settings of a program from its arguments (the first is its name), its environment
/// and the file that `--config` names. `check` is asked for what is wrong with the files that the
/// settings name, except where they are only to be printed.
///
/// # Errors
/// What to say instead of running: help, what was asked for, or all that is wrong.
pub fn read<S: Settings>(
    args: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
    check: impl Fn(&S) -> Vec<String>,
) -> Result<S, Over> {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = command::<S>();
    let mut mistakes = Vec::new();
    let line = command_line(&command, &args, &mut mistakes)?;
    let file = match line.get_one::<OsString>(CONFIG) {
        Some(path) => File::read::<S>(Path::new(path), &mut mistakes),
        None => File::default(),
    };
    let own = |arg: &&Arg| ![CONFIG, CHECK_CONFIG, PRINT_CONFIG].contains(&arg.get_id().as_str());
    let given: Vec<(&Arg, Given)> = command
        .get_arguments()
        .filter(own)
        .map(|arg| (arg, Given::of(arg, &line, &environment, &file)))
        .collect();

    let quiet = without_environment(command.clone());
    let mut good = vec![OsString::from(quiet.get_name())];
    for (arg, given) in &given {
        let words = given.words(arg);
        let alone = good[..1].iter().chain(&words);
        match quiet.clone().try_get_matches_from(alone) {
            Ok(_) => good.extend(words),
            Err(error) => mistakes.push(given.mistake(arg, &error)),
        }
    }
    // With what is wrong left out, what is right can be judged too.
    let settings = quiet
        .try_get_matches_from(&good)
        .and_then(|mut matches| S::from_arg_matches_mut(&mut matches));
    match &settings {
        Ok(settings) => {
            mistakes.extend(settings.contradictions());
            // Also before a start: whoever waits for a port to be announced must not see one of a
            // process that is about to give up.
            if !line.get_flag(PRINT_CONFIG) {
                mistakes.extend(check(settings));
            }
        }
        Err(error) => mistakes.push(first_line(error)),
    }

    let checking = line.get_flag(CHECK_CONFIG);
    match settings {
        Ok(settings) if mistakes.is_empty() => {
            if line.get_flag(PRINT_CONFIG) {
                return Err(Over::Told(printed(&given)));
            }
            match checking {
                true => Err(Over::Told("these settings will do\n".to_owned())),
                false => Ok(settings),
            }
        }
        _ => {
            let code = if checking { CHECKED_WRONG } else { WRONG };
            Err(Over::Mistaken(mistakes, code))
        }
    }
}

/// The variables a program reads.
pub fn environment<S: Settings>() -> Vec<String> {
    let command = S::command();
    let names = command.get_arguments().filter_map(Arg::get_env);
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// A table of all settings, for docs/settings.md: their flags, variables, properties and
/// defaults, and what they are for.
pub fn table<S: Settings>() -> String {
    let command = S::command();
    let rows = command.get_arguments().map(|arg| {
        let id = arg.get_id().as_str();
        // In the order in which a later one wins.
        let combined = S::COMBINATIONS.iter().filter(|made| made.argument == id);
        let mut names: Vec<&str> = combined.flat_map(|made| made.of).copied().collect();
        let sets = |property: &&Property| match property.sets {
            Sets::Argument(argument) | Sets::Pem(argument) => argument == id,
            Sets::Nothing => false,
        };
        names.extend(
            S::PROPERTIES
                .iter()
                .filter(sets)
                .map(|property| property.name),
        );
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        let default: Vec<_> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        let default = match (default.is_empty(), arg.get_action()) {
            (false, _) => format!("`{}`", default.join(",")),
            (true, ArgAction::SetTrue) => "`false`".to_owned(),
            (true, _) => "–".to_owned(),
        };
        let help = arg.get_long_help().or(arg.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let variable = arg.get_env().unwrap_or_default().to_string_lossy();
        format!(
            "| `--{}` | `{variable}` | {} | {default} | {} |\n",
            arg.get_long().unwrap_or_default(),
            names.join(", "),
            help.replace('|', "\\|"),
        )
    });
    let head = "| flag | variable | BOSH property | default | what |\n|---|---|---|---|---|\n";
    format!("{head}{}", rows.collect::<String>())
}

/// Whether the part of `page` (docs/settings.md) between the comments that name `program` is
/// [`table`]; else the page as it should be.
///
/// # Errors
/// The page that should be there.
pub fn is_current<S: Settings>(page: &str, program: &str) -> Result<(), String> {
    let (begin, end) = (
        format!("<!-- {program} -->\n"),
        format!("<!-- /{program} -->\n"),
    );
    let (before, rest) = page.split_once(&begin).unwrap_or((page, ""));
    let (there, after) = rest.split_once(&end).unwrap_or(("", rest));
    let table = table::<S>();
    match there == table {
        true => Ok(()),
        false => Err(format!("{before}{begin}{table}{end}{after}")),
    }
}

/// What a program's own test wants to be nothing: settings without a property or a variable,
/// and properties of settings that are not.
pub fn unnamed<S: Settings>() -> Vec<String> {
    let command = S::command();
    let combined = S::COMBINATIONS.iter().map(|made| made.argument);
    let set = S::PROPERTIES
        .iter()
        .filter_map(|property| match property.sets {
            Sets::Argument(argument) | Sets::Pem(argument) => Some(argument),
            Sets::Nothing => None,
        });
    let set: BTreeSet<&str> = set.chain(combined).collect();
    let arguments: BTreeSet<&str> = command
        .get_arguments()
        .map(|arg| arg.get_id().as_str())
        .collect();
    let no_property = arguments.difference(&set);
    let no_argument = set.difference(&arguments);
    let no_variable = command
        .get_arguments()
        .filter(|arg| arg.get_env().is_none())
        .map(|arg| format!("{} has no variable", arg.get_id()));
    no_property
        .map(|argument| format!("{argument} has no property"))
        .chain(no_argument.map(|argument| format!("{argument} is no setting")))
        .chain(no_variable)
        .collect()
}

/// What is wrong with the two files of an identity: both, if both are.
pub fn identity_mistakes(identity: &Identity) -> Vec<TlsError> {
    let Err(first) = tls::server(identity, None, &[]) else {
        return Vec::new();
    };
    let about_cert = matches!(
        &first,
        TlsError::Read { path, .. } | TlsError::Pem { path, .. }
        | TlsError::NoCertificate { path } if *path == identity.cert
    );
    let mut mistakes = vec![first];
    // A certificate that cannot be read hides a key that cannot.
    if about_cert && let Err(source) = std::fs::File::open(&identity.key) {
        let path = identity.key.clone();
        mistakes.push(TlsError::Read { path, source });
    }
    mistakes
}

/// A truth value in every spelling that Go's `strconv.ParseBool` knows, which is what BOSH's
/// templates were written for.
fn truth(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false"),
    }
}

/// The program's command, with the flags that are about settings and not settings themselves.
/// A switch may be told off (`--switch=false`), else a file could not be overruled.
pub fn command<S: Settings>() -> Command {
    S::command()
        .mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value("false")
                .value_name("BOOL")
                .value_parser(truth),
            _ => arg,
        })
        .arg(
            Arg::new(CONFIG)
                .long("config")
                .value_name("FILE")
                .value_parser(OsStringValueParser::new())
                .help("YAML file of settings, under their BOSH property names (docs/settings.md)"),
        )
        .arg(
            Arg::new(CHECK_CONFIG)
                .long("check-config")
                .action(ArgAction::SetTrue)
                .help("Say everything that is wrong with the settings and the files they name, and exit"),
        )
        .arg(
            Arg::new(PRINT_CONFIG)
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Say what each setting is and where it was set, without secrets, and exit"),
        )
}

/// clap would take an empty variable for a value, and stop at the first that is wrong.
fn without_environment(command: Command) -> Command {
    command.mut_args(|arg| arg.env(Resettable::Reset))
}

/// The command line, its values not yet looked at. What is wrong with it is a mistake like
/// others; help is not.
fn command_line(
    command: &Command,
    args: &[OsString],
    mistakes: &mut Vec<String>,
) -> Result<ArgMatches, Over> {
    let line = without_environment(command.clone()).mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue => arg,
        _ => arg
            .default_value(Resettable::Reset)
            .value_delimiter(Resettable::Reset)
            .value_parser(OsStringValueParser::new()),
    });
    let mut args = args.to_vec();
    loop {
        let error = match line.clone().try_get_matches_from(&args) {
            Ok(read) => return Ok(read),
            Err(error) => error,
        };
        match error.kind() {
            // Not the copy's help: it says nothing of defaults and the environment.
            ErrorKind::DisplayHelp => {
                let mut command = command.clone();
                let help = match args.iter().any(|arg| arg == "-h") {
                    true => command.render_help(),
                    false => command.render_long_help(),
                };
                return Err(Over::Told(help.to_string()));
            }
            ErrorKind::DisplayVersion => return Err(Over::Told(error.to_string())),
            _ => mistakes.push(first_line(&error)),
        }
        // clap stops here. Without what it stopped at, it reads on.
        let stopped_at = match (error.kind(), error.get(ContextKind::InvalidArg)) {
            (ErrorKind::UnknownArgument, Some(unknown)) => {
                let unknown = unknown.to_string();
                let flag = |arg: &OsString| {
                    let arg = arg.to_string_lossy();
                    arg.split_once('=').map_or(&*arg, |(flag, _)| flag) == unknown
                };
                args.iter().skip(1).position(flag).map(|at| at + 1)
            }
            _ => None,
        };
        let Some(at) = stopped_at else {
            return line
                .ignore_errors(true)
                .try_get_matches_from(&args)
                .map_err(|_| Over::Mistaken(std::mem::take(mistakes), WRONG));
        };
        args.remove(at);
        if args
            .get(at)
            .is_some_and(|next| !next.to_string_lossy().starts_with('-'))
        {
            args.remove(at); // its value
        }
    }
}

/// What clap says, in a line, with its tips and without its usage.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let line = lines.collect::<Vec<_>>().join("; ");
    line.trim_start_matches("error: ").to_owned()
}

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Flag(String),
    Environment(String),
    File { path: PathBuf, property: String },
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(flag) => write!(f, "--{flag}"),
            Source::Environment(name) => f.write_str(name),
            Source::File { path, property } => write!(f, "{} in {}", property, path.display()),
            Source::Default => f.write_str("default"),
        }
    }
}

/// An argument's value as it was given.
struct Given {
    values: Vec<OsString>,
    source: Source,
    /// What is shown in place of the values.
    shown: Option<String>,
}

impl Given {
    fn of(
        arg: &Arg,
        line: &ArgMatches,
        environment: &impl Fn(&str) -> Option<OsString>,
        file: &File,
    ) -> Given {
        let secret = arg.is_hide_env_values_set().then(|| "(masked)".to_owned());
        let given = |values, source| Given {
            values,
            source,
            shown: secret.clone(),
        };
        let (id, flag) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
        if let Some(values) = line.get_many::<OsString>(id) {
            return given(values.cloned().collect(), Source::Flag(flag.to_owned()));
        }
        let name = arg.get_env().and_then(|name| name.to_str());
        if let Some(name) = name
            && let Some(value) = environment(name).filter(|value| !value.is_empty())
        {
            return given(vec![value], Source::Environment(name.to_owned()));
        }
        if let Some(set) = file.arguments.get(id) {
            let (path, property) = (file.path.clone(), set.property.clone());
            return Given {
                shown: secret.clone().or_else(|| set.shown.clone()),
                ..given(vec![set.value.clone()], Source::File { path, property })
            };
        }
        given(Vec::new(), Source::Default)
    }

    /// Itself as arguments of a command line.
    fn words(&self, arg: &Arg) -> Vec<OsString> {
        let word = |value: &OsString| {
            let mut word = OsString::from(format!("--{}=", arg.get_long().unwrap_or_default()));
            word.push(value);
            word
        };
        self.values.iter().map(word).collect()
    }

    fn text(&self) -> String {
        let values = self.values.iter().map(|value| value.to_string_lossy());
        self.shown
            .clone()
            .unwrap_or_else(|| values.collect::<Vec<_>>().join(","))
    }

    fn mistake(&self, arg: &Arg, error: &clap::Error) -> String {
        let why = match (&self.shown, error.source()) {
            // A reason may quote the value.
            (Some(_), _) => "it cannot be used".to_owned(),
            (None, Some(why)) => why.to_string(),
            (None, None) => first_line(error),
        };
        let also = match &self.source {
            Source::Flag(_) => String::new(),
            _ => format!(" (--{})", arg.get_long().unwrap_or_default()),
        };
        format!("{}{also}: {:?}: {why}", self.source, self.text())
    }
}

/// A line for each setting: what it is, and where it was set.
fn printed(given: &[(&Arg, Given)]) -> String {
    let rows: Vec<[String; 3]> = given
        .iter()
        .map(|(arg, given)| {
            let value = match given.source {
                Source::Default => {
                    let default = arg.get_default_values().iter();
                    let default: Vec<_> = default.map(|value| value.to_string_lossy()).collect();
                    match default.is_empty() {
                        true => "-".to_owned(),
                        false => default.join(","),
                    }
                }
                _ => given.text(),
            };
            let flag = format!("--{}", arg.get_long().unwrap_or_default());
            [flag, value, given.source.to_string()]
        })
        .collect();
    let widest = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let (flag, value) = (widest(0), widest(1));
    rows.iter()
        .map(|row| format!("{:flag$}  {:value$}  {}\n", row[0], row[1], row[2]))
        .collect()
}

/// What a file sets, by argument.
#[derive(Default)]
struct File {
    path: PathBuf,
    arguments: BTreeMap<&'static str, Set>,
}

/// What it sets an argument to.
struct Set {
    property: String,
    value: OsString,
    shown: Option<String>,
}

impl File {
    /// Reads the file; what is wrong with it is added to `mistakes`, what is right is kept.
    fn read<S: Settings>(path: &Path, mistakes: &mut Vec<String>) -> File {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let path = path.display();
                mistakes.push(format!("--config: could not read {path}: {error}"));
                return File::default();
            }
        };
        File::parse::<S>(&text, path, mistakes)
    }

    fn parse<S: Settings>(text: &str, path: &Path, mistakes: &mut Vec<String>) -> File {
        let mut file = File {
            path: path.to_owned(),
            arguments: BTreeMap::new(),
        };
        let shown = path.display();
        let root = match serde_saphyr::from_str::<Value>(text) {
            Ok(root) => root,
            Err(error) => {
                // Its own words quote the file, which may hold a secret.
                let at = error.location().map_or("its end".to_owned(), |at| {
                    format!("line {}, column {}", at.line(), at.column())
                });
                mistakes.push(format!(
                    "{shown} cannot be read as YAML: look at {at} (a key given twice counts too)"
                ));
                return file;
            }
        };
        let mut leaves = Vec::new();
        match root {
            Value::Null => {}
            Value::Object(_) => flatten("", root, &mut leaves),
            _ => mistakes.push(format!("{shown} must begin with a property's name")),
        }
        let mut properties = BTreeMap::new();
        for (name, value) in leaves {
            let name = name.strip_prefix("properties.").unwrap_or(&name).to_owned();
            if !known::<S>().contains(name.as_str()) {
                mistakes.push(unknown::<S>(&name, path));
            } else if properties.insert(name.clone(), value).is_some() {
                mistakes.push(format!("{name} in {shown} is given twice"));
            }
        }
        properties.retain(|_, value| !value.is_empty());
        file.set::<S>(&properties, mistakes);
        file
    }

    fn set<S: Settings>(
        &mut self,
        properties: &BTreeMap<String, String>,
        mistakes: &mut Vec<String>,
    ) {
        for combination in S::COMBINATIONS {
            let of = combination.of;
            let values: Vec<_> = of
                .iter()
                .map(|name| properties.get(*name).map(String::as_str))
                .collect();
            let given: Vec<&str> = of
                .iter()
                .zip(&values)
                .filter_map(|(name, value)| value.map(|_| *name))
                .collect();
            if given.is_empty() {
                continue;
            }
            if let Some(value) = (combination.make)(&values) {
                let set = Set {
                    property: given.join(", "),
                    value: value.into(),
                    shown: None,
                };
                self.arguments.insert(combination.argument, set);
            }
        }
        for Property { name, sets } in S::PROPERTIES {
            let Some(value) = properties.get(*name) else {
                continue;
            };
            let mut set = Set {
                property: (*name).to_owned(),
                value: value.into(),
                shown: None,
            };
            let argument = match sets {
                Sets::Nothing => continue,
                Sets::Argument(argument) => argument,
                Sets::Pem(argument) if !value.contains("-----BEGIN") => argument,
                Sets::Pem(argument) => match in_memory(value) {
                    Ok(path) => {
                        set.value = path.into();
                        set.shown = Some("(PEM)".to_owned());
                        argument
                    }
                    Err(error) => {
                        let file = self.path.display();
                        mistakes.push(format!(
                            "{name} in {file}: could not keep PEM text in memory, give the path of a file: {}",
                            chain(&error)
                        ));
                        continue;
                    }
                },
            };
            self.arguments.insert(argument, set);
        }
    }
}

/// All names a file may have.
fn known<S: Settings>() -> BTreeSet<&'static str> {
    let combined = S::COMBINATIONS.iter().flat_map(|made| made.of);
    let properties = S::PROPERTIES.iter().map(|property| &property.name);
    properties.chain(combined).copied().collect()
}

fn unknown<S: Settings>(name: &str, path: &Path) -> String {
    // Below this a suggestion confuses more than it helps.
    const ALIKE: f64 = 0.8;
    let nearest = known::<S>()
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let path = path.display();
    match nearest {
        Some((_, known)) => format!("{name} in {path} is unknown: did you mean {known}?"),
        None => format!("{name} in {path} is unknown: docs/settings.md has all there are"),
    }
}

/// Every value with the names above it, joined by dots; a list of values is one, with commas.
fn flatten(name: &str, value: Value, into: &mut Vec<(String, String)>) {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    };
    match value {
        Value::Object(below) => {
            for (key, value) in below {
                let name = match name {
                    "" => key,
                    above => format!("{above}.{key}"),
                };
                flatten(&name, value, into);
            }
        }
        Value::Null => into.push((name.to_owned(), String::new())),
        Value::Array(values) if values.iter().all(|value| text(value).is_some()) => {
            let values: Vec<_> = values.iter().filter_map(text).collect();
            into.push((name.to_owned(), values.join(",")));
        }
        Value::Array(values) => {
            for (n, value) in values.into_iter().enumerate() {
                flatten(&format!("{name}[{n}]"), value, into);
            }
        }
        value => into.extend(text(&value).map(|text| (name.to_owned(), text))),
    }
}

/// Keeps PEM text where it has a path and is on no disk. It stays there as long as the process
/// does: whoever loads certificates again reads that path again.
#[cfg(target_os = "linux")]
fn in_memory(pem: &str) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    let memory = rustix::fs::memfd_create("pem", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(pem.as_bytes())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    std::mem::forget(file);
    Ok(path)
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_: &str) -> io::Result<PathBuf> {
    Err(io::Error::other("only Linux has files without a disk"))
}
