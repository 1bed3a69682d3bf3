//! A program with a few settings of every kind.

#![allow(clippy::unwrap_used)]

use clap::Parser;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use transport::settings::{self, Combination, Over, Property, Settings, nothing, pem, value};

/// The program.
#[derive(Parser, Debug, PartialEq, Eq)]
#[command(name = "program")]
struct Program {
    /// A port.
    #[arg(long, env = "PORT", default_value_t = 8082)]
    port: u16,
    /// An address.
    #[arg(long, env = "ADDRESS")]
    address: Option<IpAddr>,
    /// Several.
    #[arg(long, env = "ADDRS", value_delimiter = ',')]
    addrs: Vec<String>,
    /// A switch.
    #[arg(long, env = "SWITCH")]
    switch: bool,
    /// A file.
    #[arg(long, env = "CERT_FILE")]
    cert_file: Option<PathBuf>,
    /// A secret.
    #[arg(long, env = "SECRET", hide_env_values = true, value_parser = secret)]
    secret: Option<String>,
}

fn secret(text: &str) -> Result<String, String> {
    match text.starts_with("s-") {
        true => Ok(text.to_owned()),
        false => Err(format!("{text} is no secret")),
    }
}

impl Settings for Program {
    const PROPERTIES: &'static [Property] = &[
        value("doppler.grpc_port", "port"),
        value("doppler.address", "address"),
        value("doppler.switch", "switch"),
        value("loggregator.uaa.client_secret", "secret"),
        value("loggregator.uaa_secret", "secret"),
        pem("loggregator.tls.cert", "cert_file"),
        nothing("doppler.enabled"),
    ];
    const COMBINATIONS: &'static [Combination] = &[Combination {
        argument: "addrs",
        of: &["doppler.addrs", "doppler.addrs_port"],
        make: |of| {
            let port = of[1].unwrap_or("8082");
            let addrs = of[0]?.split(',').map(|host| format!("{host}:{port}"));
            Some(addrs.collect::<Vec<_>>().join(","))
        },
    }];

    fn contradictions(&self) -> Vec<String> {
        match (self.port, &self.address) {
            (1, None) => vec!["--port 1 needs --address".to_owned()],
            _ => vec![],
        }
    }
}

struct Setting {
    args: Vec<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
    file: Option<&'static str>,
}

fn read(setting: Setting) -> Result<Program, Over> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("settings.yml");
    let mut args: Vec<OsString> = vec!["program".into()];
    args.extend(setting.args.iter().map(OsString::from));
    if let Some(text) = setting.file {
        std::fs::write(&path, text).unwrap();
        args.extend(["--config".into(), path.into()]);
    }
    let environment = |name: &str| {
        let mut all = setting.environment.iter();
        Some(all.find(|(known, _)| *known == name)?.1.into())
    };
    settings::read(args, environment, |program: &Program| match program.port {
        BAD_FILE => vec!["the file is bad".to_owned()],
        _ => vec![],
    })
}

/// A port whose program names a file that cannot be used.
const BAD_FILE: u16 = 13;

fn args(args: &[&'static str]) -> Setting {
    Setting {
        args: args.to_vec(),
        environment: vec![],
        file: None,
    }
}

fn file(text: &'static str) -> Setting {
    Setting {
        file: Some(text),
        ..args(&[])
    }
}

fn mistakes(setting: Setting) -> Vec<String> {
    match read(setting) {
        Err(Over::Mistaken(mistakes, _)) => mistakes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default() {
    let mut setting = args(&["--port", "1000"]);
    setting.environment = vec![("PORT", "2000")];
    setting.file = Some("doppler: {grpc_port: 3000}");
    let port = |setting: &Setting| {
        let copy = Setting {
            args: setting.args.clone(),
            environment: setting.environment.clone(),
            file: setting.file,
        };
        read(copy).unwrap().port
    };
    assert_eq!(port(&setting), 1000);
    setting.args.clear();
    assert_eq!(port(&setting), 2000);
    setting.environment = vec![("PORT", "")];
    assert_eq!(port(&setting), 3000, "an empty variable is none");
    setting.file = Some("doppler: {grpc_port: ''}");
    assert_eq!(port(&setting), 8082, "nor is an empty property");
}

#[test]
fn a_file_has_properties_nested_dotted_or_below_properties() {
    for text in [
        "doppler:\n  grpc_port: 3000\n",
        "doppler.grpc_port: 3000",
        "properties:\n  doppler:\n    grpc_port: 3000\n    enabled: true\n",
        "properties: {doppler: {grpc_port: '3000'}}",
    ] {
        assert_eq!(read(file(text)).unwrap().port, 3000, "{text}");
    }
    assert_eq!(read(file("")).unwrap().port, 8082);
}

#[test]
fn several_properties_make_one_setting_and_the_later_of_two_names_wins() {
    let program = read(file(
        "doppler: {addrs: [a, b], addrs_port: 1}\n\
         loggregator: {uaa: {client_secret: s-new}, uaa_secret: s-old}",
    ));
    let program = program.unwrap();
    assert_eq!(program.addrs, ["a:1", "b:1"]);
    assert_eq!(program.secret.as_deref(), Some("s-old"));
    let program = read(file("doppler: {addrs: [a]}")).unwrap();
    assert_eq!(program.addrs, ["a:8082"]);
    assert!(
        read(file("doppler: {addrs_port: 1}"))
            .unwrap()
            .addrs
            .is_empty()
    );
}

#[test]
#[cfg(target_os = "linux")]
fn pem_text_in_a_file_is_read_like_a_pem_file_more_than_once() {
    let program = read(file(
        "loggregator:\n  tls:\n    cert: |\n      -----BEGIN CERTIFICATE-----\n      AAAA\n",
    ));
    let path = program.unwrap().cert_file.unwrap();
    for _ in 0..2 {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "-----BEGIN CERTIFICATE-----\nAAAA\n");
    }
    let program = read(file("loggregator: {tls: {cert: a/path}}")).unwrap();
    assert_eq!(program.cert_file.unwrap(), Path::new("a/path"));
}

#[test]
fn a_switch_is_spelt_as_go_spells_it_wherever_it_is_set() {
    for (text, on) in [
        ("1", true),
        ("T", true),
        ("True", true),
        ("f", false),
        ("FALSE", false),
    ] {
        let mut setting = args(&[]);
        setting.environment = vec![("SWITCH", text)];
        assert_eq!(read(setting).unwrap().switch, on, "{text}");
    }
    assert!(read(args(&["--switch"])).unwrap().switch);
    assert!(read(file("doppler: {switch: true}")).unwrap().switch);
    let mut setting = args(&["--switch=false"]);
    setting.environment = vec![("SWITCH", "true")];
    assert!(!read(setting).unwrap().switch, "a flag can say no");
    let mut setting = args(&[]);
    setting.environment = vec![("SWITCH", "yes")];
    assert_eq!(
        mistakes(setting),
        ["SWITCH (--switch): \"yes\": neither true nor false"]
    );
}

#[test]
fn all_mistakes_are_told_at_once_each_by_the_name_it_was_given() {
    let mut setting = args(&["--address", "nowhere", "--prot", "1", "--zz=2"]);
    setting.environment = vec![("PORT", "70000")];
    setting.file = Some("dopler: {switch: maybe}\ndoppler: {switch: maybe}\nzzz: 1");
    let all = mistakes(setting).join("\n");
    for part in [
        "unexpected argument '--prot' found; tip: a similar argument exists: '--port'",
        "unexpected argument '--zz' found",
        "--address: \"nowhere\": invalid IP address syntax",
        "PORT (--port): \"70000\": 70000 is not in 0..=65535",
        "doppler.switch in ",
        "\"maybe\": neither true nor false",
        "dopler.switch in ",
        "is unknown: did you mean doppler.switch?",
        "zzz in ",
    ] {
        assert!(all.contains(part), "{part} is missing in:\n{all}");
    }
    assert_eq!(all.lines().count(), 7, "{all}");
}

#[test]
fn what_contradicts_is_told_beside_what_is_wrong() {
    let all = mistakes(args(&["--port", "1", "--switch=maybe"]));
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(all[1], "--port 1 needs --address");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_not_quoted() {
    let all = mistakes(args(&["--config", "not-there.yml"]));
    assert!(all[0].contains("could not read not-there.yml"), "{all:?}");
    let all = mistakes(file("loggregator: {uaa_secret: s-hidden\n  : : ["));
    assert!(all[0].contains("settings.yml cannot be read as YAML: look at line"));
    assert!(!all[0].contains("s-hidden"), "{all:?}");
    let all = mistakes(file("doppler: {grpc_port: 1, grpc_port: 2}"));
    assert!(all[0].contains("twice"), "{all:?}");
    let all = mistakes(file(
        "doppler: {grpc_port: 1}\nproperties: {doppler: {grpc_port: 2}}",
    ));
    assert!(all[0].contains("is given twice"), "{all:?}");
}

#[test]
fn a_secret_is_shown_neither_by_a_mistake_nor_by_print_config() {
    for setting in [
        args(&["--secret", "hidden"]),
        file("loggregator.uaa_secret: hidden"),
    ] {
        let all = mistakes(setting);
        assert!(
            all[0].contains("\"(masked)\": it cannot be used"),
            "{all:?}"
        );
        assert!(!all[0].contains("hidden"));
    }
    let mut setting = args(&["--print-config", "--port", "1000"]);
    setting.environment = vec![("SECRET", "s-hidden"), ("ADDRESS", "::1")];
    setting.file = Some("doppler: {switch: true}");
    let Err(Over::Told(page)) = read(setting) else {
        panic!("it ran");
    };
    let lines: Vec<Vec<&str>> = page
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["--port", "1000", "--port"]);
    assert_eq!(lines[1], ["--address", "::1", "ADDRESS"]);
    assert_eq!(lines[2], ["--addrs", "-", "default"]);
    assert_eq!(lines[3][..3], ["--switch", "true", "doppler.switch"]);
    assert_eq!(lines[5], ["--secret", "(masked)", "SECRET"]);
    assert!(!page.contains("s-hidden"));
}

#[test]
fn files_that_cannot_be_used_are_told_with_the_rest_when_checking_and_before_a_start() {
    for (flags, expected) in [
        (&["--port", "13", "--switch", "perhaps"][..], 2),
        (
            &["--port", "13", "--switch", "perhaps", "--check-config"],
            1,
        ),
    ] {
        let Err(Over::Mistaken(all, code)) = read(args(flags)) else {
            panic!("it ran");
        };
        assert_eq!(code, expected);
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(all[1], "the file is bad");
    }
    let printed = read(args(&["--port", "13", "--print-config"]));
    assert!(matches!(printed, Err(Over::Told(_))));
}

#[test]
fn help_says_defaults_and_variables() {
    for flag in ["--help", "-h"] {
        let Err(Over::Told(help)) = read(args(&[flag])) else {
            panic!("it ran");
        };
        for part in [
            "--port <PORT>",
            "PORT=",
            "[default: 8082]",
            "--check-config",
        ] {
            assert!(help.contains(part), "{part} is missing in:\n{help}");
        }
    }
}
