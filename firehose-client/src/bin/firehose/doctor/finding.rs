//! What can be wrong, under a name for machines, and what to do about it for people.

/// Something to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    NoAddress,
    PortClosed,
    AddressSilent,
    PlainOnTlsPort,
    TlsOnPlainPort,
    NotTls,
    HungUp,
    TlsVersion,
    TlsFailed,
    CertificateExpired,
    CertificateNotYet,
    CertificateName,
    CertificateIssuer,
    CertificateBad,
    CertificateSoon,
    Http2Only,
    Unanswered,
    NotHttp,
    NotOurs,
    UnknownRoute,
    NoBackend,
    Redirected,
    UpgradeLost,
    UpgradeRefused,
    UpgradeUnanswered,
    UpgradeAltered,
    UpgradeBroken,
    RouteService,
    TokenRefused,
    AppNotFound,
    AuthorityDown,
    ForwardedMissing,
    ForwardedProto,
    ForwardedUntrusted,
    NoPing,
    NoPong,
    Buffered,
    StreamEnded,
    IdleCut,
    IdleShort,
    LifeLimit,
}

impl Finding {
    #[cfg(test)]
    pub(super) const ALL: [Finding; 41] = {
        use Finding::*;
        [
            NoAddress,
            PortClosed,
            AddressSilent,
            PlainOnTlsPort,
            TlsOnPlainPort,
            NotTls,
            HungUp,
            TlsVersion,
            TlsFailed,
            CertificateExpired,
            CertificateNotYet,
            CertificateName,
            CertificateIssuer,
            CertificateBad,
            CertificateSoon,
            Http2Only,
            Unanswered,
            NotHttp,
            NotOurs,
            UnknownRoute,
            NoBackend,
            Redirected,
            UpgradeLost,
            UpgradeRefused,
            UpgradeUnanswered,
            UpgradeAltered,
            UpgradeBroken,
            RouteService,
            TokenRefused,
            AppNotFound,
            AuthorityDown,
            ForwardedMissing,
            ForwardedProto,
            ForwardedUntrusted,
            NoPing,
            NoPong,
            Buffered,
            StreamEnded,
            IdleCut,
            IdleShort,
            LifeLimit,
        ]
    };

    /// Does not change from one version to the next.
    pub(super) fn name(self) -> &'static str {
        match self {
            Finding::NoAddress => "no_address",
            Finding::PortClosed => "port_closed",
            Finding::AddressSilent => "address_silent",
            Finding::PlainOnTlsPort => "plain_on_tls_port",
            Finding::TlsOnPlainPort => "tls_on_plain_port",
            Finding::NotTls => "not_tls",
            Finding::HungUp => "hung_up",
            Finding::TlsVersion => "tls_version",
            Finding::TlsFailed => "tls_failed",
            Finding::CertificateExpired => "certificate_expired",
            Finding::CertificateNotYet => "certificate_not_yet_valid",
            Finding::CertificateName => "certificate_name",
            Finding::CertificateIssuer => "certificate_issuer",
            Finding::CertificateBad => "certificate_bad",
            Finding::CertificateSoon => "certificate_expires_soon",
            Finding::Http2Only => "http2_only",
            Finding::Unanswered => "unanswered",
            Finding::NotHttp => "not_http",
            Finding::NotOurs => "not_a_traffic_controller",
            Finding::UnknownRoute => "unknown_route",
            Finding::NoBackend => "no_backend",
            Finding::Redirected => "redirected",
            Finding::UpgradeLost => "upgrade_lost",
            Finding::UpgradeRefused => "upgrade_refused",
            Finding::UpgradeUnanswered => "upgrade_unanswered",
            Finding::UpgradeAltered => "upgrade_altered",
            Finding::UpgradeBroken => "upgrade_broken",
            Finding::RouteService => "route_service",
            Finding::TokenRefused => "token_refused",
            Finding::AppNotFound => "app_not_found",
            Finding::AuthorityDown => "authority_down",
            Finding::ForwardedMissing => "forwarded_missing",
            Finding::ForwardedProto => "forwarded_proto",
            Finding::ForwardedUntrusted => "forwarded_untrusted",
            Finding::NoPing => "no_ping",
            Finding::NoPong => "no_pong",
            Finding::Buffered => "buffered",
            Finding::StreamEnded => "stream_ended",
            Finding::IdleCut => "idle_cut",
            Finding::IdleShort => "idle_short",
            Finding::LifeLimit => "life_limit",
        }
    }

    /// One paragraph: what to change, and where.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Finding::NoAddress => {
                "Give the name a record that leads to the load balancer: the wildcard of the system \
                 domain, or one of its own where WebSockets have a balancer of their own \
                 (ws.cf.example.com). Clients take the name from Cloud Controller; `cf curl /` \
                 shows it as links.logging.href."
            }
            Finding::PortClosed => {
                "Listen there, or tell clients the port that is listened on: Cloud Controller's \
                 property doppler.port (logger_endpoint.port in old manifests). HAProxy: a `bind \
                 :4443 ssl crt …`; ha_proxy.enable_4443 in its BOSH release. nginx: `listen 4443 \
                 ssl`. Envoy: a listener with that port_value. gorouter listens on 443 and 80 only. \
                 AWS: a listener of the load balancer on that port, whose target group is the one of \
                 443; then look at its security group."
            }
            Finding::AddressSilent => {
                "A firewall drops the packets, or the address is nobody's any more. AWS: allow the \
                 port in the security group of the load balancer, and in the network ACL of its \
                 subnets; elsewhere in the firewall before HAProxy, nginx or Envoy. If only one of \
                 several addresses is silent, take it out of DNS, or mend that balancer: clients that \
                 try it first wait for it."
            }
            Finding::PlainOnTlsPort => {
                "The port speaks HTTP without TLS. If it is the port meant, let it do TLS: HAProxy: \
                 `bind :4443 ssl crt FILE`. nginx: `listen 4443 ssl` with ssl_certificate. Envoy: a \
                 transport_socket with DownstreamTlsContext in its filter chain. gorouter: 443 is its port for TLS, 80 the plain one. AWS: a listener of \
                 protocol SSL (classic ELB), TLS (NLB) or HTTPS (ALB), not TCP or HTTP, if what is \
                 behind it speaks plain text. Else give clients the right port: doppler.port of Cloud \
                 Controller."
            }
            Finding::TlsOnPlainPort => {
                "The port speaks TLS: write wss:// instead of ws://. If a balancer talks to it, its \
                 backend needs TLS too: HAProxy: `server … ssl verify required ca-file …`. nginx: \
                 `proxy_pass https://…`. Envoy: a transport_socket with UpstreamTlsContext in the \
                 cluster. gorouter: tls_port and server_cert_domain_san in route_registrar, not port. \
                 AWS: target group protocol HTTPS or TLS."
            }
            Finding::NotTls => {
                "Another service has this port. Look at what listens there, and at which port the \
                 balancer's listener is: HAProxy `bind`, nginx `listen`, Envoy port_value, the \
                 listeners of an AWS load balancer; clients are told the port by doppler.port of Cloud \
                 Controller."
            }
            Finding::HungUp => {
                "Somebody takes the connection and hangs up. In TCP mode that is a balancer without a \
                 living backend: HAProxy: look at `show servers state`. nginx: `upstream` and its \
                 error log. Envoy: /clusters of its admin. AWS: health of the target group. It is also \
                 what happens where PROXY protocol is expected and not sent, or sent and not expected: \
                 HAProxy `accept-proxy` on a bind that clients reach directly, `send-proxy-v2` on a \
                 server; nginx `listen … proxy_protocol`; Envoy's proxy_protocol listener filter; AWS \
                 proxy_protocol_v2.enabled; TRAFFIC_CONTROLLER_PROXY_PROTOCOL_FROM. A Traffic Controller \
                 hangs up on plain text, but from TRAFFIC_CONTROLLER_PLAIN_FROM."
            }
            Finding::TlsVersion => {
                "Clients speak TLS 1.2 and 1.3, with ECDHE and AES-GCM. HAProxy: `ssl-min-ver \
                 TLSv1.2` and no ssl-max-ver below it, and look at `ciphers`. nginx: `ssl_protocols \
                 TLSv1.2 TLSv1.3` and ssl_ciphers. Envoy: tls_maximum_protocol_version and \
                 cipher_suites in tls_params. gorouter: router.min_tls_version and cipher_suites. AWS: \
                 a security policy of the listener such as ELBSecurityPolicy-TLS13-1-2-2021-06."
            }
            Finding::TlsFailed => {
                "Look at what the balancer says about it: HAProxy `log` with `option httpslog`, nginx \
                 error_log, Envoy's listener log and ssl.* counters, gorouter's log, the connection \
                 log of an ALB. A listener that asks for client certificates refuses everybody here: \
                 clients have none. HAProxy: no `verify required` on the bind. nginx: `ssl_verify_client \
                 off`. Envoy: no require_client_certificate. AWS: mutual authentication off."
            }
            Finding::CertificateExpired => {
                "Put the new certificate where TLS ends: HAProxy: the file of `crt`, then reload. \
                 nginx: ssl_certificate, then reload. Envoy: tls_certificates, or SDS. gorouter: \
                 router.tls_pem. AWS: the certificate of the listener in ACM, which renews only what \
                 is validated by DNS. If the balancer passes TCP through, it is the Traffic \
                 Controller's: TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE, read again when it changes. If it \
                 is not the leaf that is over, replace the intermediate in the same file."
            }
            Finding::CertificateNotYet => {
                "The clock of this machine is wrong, or that of who issued the certificate. If both are \
                 right, install it when its time has come."
            }
            Finding::CertificateName => {
                "The certificate must name what clients ask for, as a SAN; its CN does not count. A \
                 wildcard stands for one label: *.sys.example.com is good for \
                 doppler.sys.example.com. HAProxy: `crt` with all of them, or `crt-list`; nginx: \
                 server_name with ssl_certificate; Envoy: server_names in filter_chain_match; \
                 gorouter: router.tls_pem; AWS: a certificate for that name on that listener. A \
                 certificate of the balancer's own default means that SNI chose none. In TCP mode it is \
                 the Traffic Controller's: TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE."
            }
            Finding::CertificateIssuer => {
                "Clients do not know who signed it. If it is a CA of your own, give it to them: --ca \
                 here, and the CAs of the machines where nozzles run. If it is a public one, the \
                 intermediates are missing: put them behind the certificate in the same file. HAProxy: \
                 the file of `crt`; nginx: ssl_certificate; Envoy: certificate_chain; gorouter: \
                 cert_chain in router.tls_pem; AWS: the certificate chain when importing into ACM."
            }
            Finding::CertificateBad => {
                "Issue another one: with a SAN, for server authentication, version 3, an RSA key of \
                 2048 bits or ECDSA. Then put it where TLS ends: `crt` of HAProxy, ssl_certificate of \
                 nginx, tls_certificates of Envoy, router.tls_pem of gorouter, the listener at AWS."
            }
            Finding::CertificateSoon => {
                "Renew it, and see that whoever ends TLS reads it: HAProxy and nginx on reload, Envoy \
                 by SDS, gorouter on restart, AWS by itself if ACM validates it by DNS; the Traffic \
                 Controller when the file changes."
            }
            Finding::Http2Only => {
                "Clients of Loggregator speak HTTP/1.1 and upgrade; WebSockets over HTTP/2 (RFC 8441) \
                 are spoken by none of them, nor by gorouter. HAProxy: `alpn http/1.1` on that bind, \
                 and no `proto h2`. nginx: no `http2` on that listen. Envoy: codec_type AUTO or HTTP1, \
                 and alpn_protocols with http/1.1. gorouter: it takes both; look before it. AWS: on an \
                 NLB's TLS listener the ALPN policy HTTP1Only or None, not HTTP2Only. Behind the \
                 balancer, too, it must be HTTP/1.1: HAProxy `alpn http/1.1` on the server, Envoy \
                 http_protocol_options, ALB target group version HTTP1."
            }
            Finding::Unanswered => {
                "The connection is taken, and nobody answers in it. Look for a backend that hangs: \
                 HAProxy: `timeout connect` and `check` of its servers; nginx: proxy_connect_timeout; \
                 Envoy: connect_timeout and health_checks of the cluster; AWS: health of the targets. \
                 Or the balancer waits for PROXY protocol: HAProxy `accept-proxy`, nginx `listen … \
                 proxy_protocol`, Envoy's proxy_protocol filter. Or the Traffic Controller is \
                 overloaded: `/metrics` there."
            }
            Finding::NotHttp => {
                "Another service has this port. Look at what listens there; HAProxy `bind`, nginx \
                 `listen`, Envoy port_value, listeners and target ports at AWS; doppler.port of Cloud \
                 Controller is what clients are told."
            }
            Finding::NotOurs => {
                "Whoever answers is no Traffic Controller. Either the name leads to another server, or \
                 the balancer chooses a wrong one by host or path. HAProxy: `use_backend … if { \
                 hdr_beg(host) doppler. }` and default_backend. nginx: server_name and `location /`. \
                 Envoy: domains of the virtual host, and the route's cluster. gorouter: the route \
                 doppler.SYSTEM_DOMAIN of route_registrar. AWS: rules of the listener, and its target \
                 group. A web firewall or a login page before it has to let this host pass."
            }
            Finding::UnknownRoute => {
                "gorouter has no route for this host. route_registrar beside the Traffic Controller \
                 registers doppler.SYSTEM_DOMAIN with tls_port 8081 and server_cert_domain_san; see \
                 that it runs, and that the URL has the right system domain. A balancer must pass on \
                 the Host that the client sent: nginx: `proxy_set_header Host $host`; HAProxy and AWS \
                 do by themselves; Envoy: no host_rewrite."
            }
            Finding::NoBackend => {
                "The balancer has no Traffic Controller to ask, or cannot reach it. Look at its health \
                 check, which may ask the admin listener for /health/ready: HAProxy `option httpchk` \
                 and `check port`, Envoy health_checks, an ALB's target group. See that it speaks what \
                 the Traffic Controller does: TLS on 8081 with its SAN (HAProxy `ssl verify required \
                 sni`, nginx `proxy_pass https://` and proxy_ssl_name, Envoy UpstreamTlsContext, \
                 gorouter's server_cert_domain_san), HTTP/1.1, and PROXY protocol only where both \
                 agree."
            }
            Finding::Redirected => {
                "A WebSocket client does not follow redirects. On port 80: use wss://. Else the \
                 balancer sends clients to a login page or another host: let this host pass. HAProxy: \
                 `http-request redirect`; nginx: `return 301`; Envoy: https_redirect or redirect of the \
                 route; AWS: an action redirect or authenticate of the listener's rules."
            }
            Finding::UpgradeLost => {
                "The request came to the Traffic Controller without its `Upgrade`: whoever stands before \
                 it took it out. nginx: `proxy_http_version 1.1`, `proxy_set_header Upgrade \
                 $http_upgrade` and `proxy_set_header Connection \"upgrade\"` in that location. Envoy: \
                 upgrade_configs with upgrade_type websocket. HAProxy passes it in HTTP mode: look for \
                 `http-request del-header`; or `mode tcp`. gorouter passes it: look before it. AWS: \
                 listeners HTTP and HTTPS of a classic ELB never pass it: a listener TCP or SSL, \
                 on a port of its own such as 4443 (doppler.port tells clients), or an ALB, which \
                 does."
            }
            Finding::UpgradeRefused => {
                "The request without Upgrade came to the Traffic Controller, this one was answered by \
                 somebody before it. Envoy (403): upgrade_configs with upgrade_type websocket, on the \
                 connection manager, and not switched off on the route. nginx: `proxy_set_header \
                 Upgrade`, and no `return` or `if` on it. HAProxy: no `http-request deny` on it. \
                 gorouter: its X-Cf-Routererror says why. AWS: an ALB passes it unless its rules or its \
                 WAF say no; a classic ELB needs a listener TCP or SSL."
            }
            Finding::UpgradeUnanswered => {
                "The request without Upgrade was answered, this one waits: somebody buffers it until its \
                 body ends, which it never does. Envoy: no buffer filter for WebSockets (filters of \
                 upgrade_configs, or BufferPerRoute with disabled). HAProxy: no `option \
                 http-buffer-request`. nginx: proxy_request_buffering does not matter, modules that \
                 scan bodies do. AWS: a WAF that inspects bodies. Scanners and API gateways: leave this \
                 host out."
            }
            Finding::UpgradeAltered => {
                "Somebody answers 101 in place of the Traffic Controller, or changes its answer: a \
                 WebSocket gateway, or a cache. Pass the handshake through as it is: HAProxy `mode tcp` \
                 or no `http-response` rules on it; nginx: no add_header or proxy_hide_header on \
                 Sec-WebSocket-*, and proxy_cache off; Envoy: no response_headers_to_remove; AWS: an \
                 ALB does not touch it."
            }
            Finding::UpgradeBroken => {
                "The request without Upgrade was answered, and with it the connection is cut. Look for a \
                 firewall, scanner or WAF that does not know WebSockets, and for what the balancer logs: \
                 HAProxy: its termination state; nginx: error_log; Envoy: response flags; AWS: the \
                 access log. TCP mode on a port of its own goes around all of them."
            }
            Finding::RouteService => {
                "gorouter passes no WebSocket on a route with a route service. `cf route-services` in \
                 the org and space of that route shows which: unbind it (`cf \
                 unbind-route-service`), or give WebSockets a route without one. If it is the whole \
                 system domain, look who bound a service to doppler.SYSTEM_DOMAIN."
            }
            Finding::TokenRefused => {
                "Take a new token (`cf oauth-token`). A firehose needs the scope doppler.firehose; \
                 whoever has not got it gives --app with an app he may see. If the same token works \
                 elsewhere, somebody takes out or replaces `Authorization`: HAProxy `http-request \
                 del-header`, nginx proxy_set_header or auth_request, Envoy ext_authz or \
                 request_headers_to_remove, an ALB's action authenticate."
            }
            Finding::AppNotFound => {
                "There is no such app, or the token may not see it. Give --app one that you see with \
                 `cf app`."
            }
            Finding::AuthorityDown => {
                "The Traffic Controller cannot ask UAA or Cloud Controller about the token: no fault of \
                 the balancer. Look at its log, TRAFFIC_CONTROLLER_UAA_HOST and \
                 TRAFFIC_CONTROLLER_API_HOST."
            }
            Finding::ForwardedMissing => {
                "The Traffic Controller sees the balancer's address for everybody's: its log and \
                 security events cannot tell clients apart. HAProxy: `option forwardfor` and \
                 `http-request set-header X-Forwarded-Proto https` in HTTP mode, `send-proxy-v2` in TCP \
                 mode. nginx: `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for`; \
                 `proxy_protocol on` in stream. Envoy: use_remote_address true; PROXY protocol in the \
                 cluster's transport_socket. gorouter adds it by itself. AWS: an ALB adds it; classic \
                 ELB and NLB in TCP mode need PROXY protocol. If only address translation stands in \
                 between, this is how it has to be."
            }
            Finding::ForwardedProto => {
                "You came by TLS, and the Traffic Controller is told otherwise. HAProxy: `http-request \
                 set-header X-Forwarded-Proto https`. nginx: `proxy_set_header X-Forwarded-Proto \
                 $scheme`. Envoy sets it by itself with use_remote_address. gorouter: \
                 router.force_forwarded_proto_https if TLS ends before it. AWS: an ALB sets it, a \
                 classic ELB in TCP mode cannot."
            }
            Finding::ForwardedUntrusted => {
                "The header comes, but not from somebody the Traffic Controller believes. Put the \
                 addresses of HAProxy, nginx, Envoy, gorouter or the AWS load balancer (its subnets) \
                 into TRAFFIC_CONTROLLER_TRUSTED_PROXIES."
            }
            Finding::NoPing => {
                "A Traffic Controller pings as soon as a stream is open, and every 15 s; quiet streams \
                 live by that. Somebody in between keeps the pings, as WebSocket gateways and scanners do \
                 that end the protocol and begin it anew. Let them pass frames as they are, or TCP: \
                 HAProxy `mode tcp`, nginx `stream`, Envoy tcp_proxy, NLB or a TCP listener at AWS. Or it \
                 is another server."
            }
            Finding::NoPong => {
                "What we say in the stream does not come through, or its answer does not: the Traffic \
                 Controller will close it after 30 s, as it gets no answers to its pings. Somebody in \
                 between ends WebSockets, or passes one direction only: leave this host out of scanners \
                 and gateways, or pass TCP: HAProxy `mode tcp`, nginx `stream`, Envoy tcp_proxy, NLB or \
                 a TCP listener at AWS."
            }
            Finding::Buffered => {
                "Somebody gathers what goes through the stream before passing it on. nginx: \
                 `proxy_buffering off` where it is not a WebSocket to it, and no gzip or scanning \
                 modules; HAProxy: no `compression` or filters on it, `option http-no-delay`; Envoy: no \
                 buffer or compressor filter for it; AWS: nothing to set. It may also be a long queue on \
                 the way: a firehose that fills the line makes pings wait."
            }
            Finding::StreamEnded => {
                "The stream was opened and ended at once. A Close with 1001 is a Traffic Controller that \
                 leaves; try again. Without a Close somebody cut it: HAProxy `timeout tunnel` or \
                 `timeout server`; nginx: proxy_read_timeout; Envoy: route timeout and idle_timeout; a \
                 firewall that does not know WebSockets."
            }
            Finding::IdleCut => {
                "A quiet stream is cut before the Traffic Controller's next ping, which comes every \
                 15 s. Allow an hour, at least a minute: HAProxy: `timeout tunnel 1h`, and `timeout \
                 client` and `timeout server` in TCP mode. nginx: `proxy_read_timeout 1h` and \
                 `proxy_send_timeout 1h`; `proxy_timeout 1h` in stream. Envoy: stream_idle_timeout 0s, \
                 idle_timeout 0s on the route, idle_timeout of tcp_proxy. gorouter has none for \
                 WebSockets. AWS: idle_timeout.timeout_seconds of the load balancer (60 by default), \
                 tcp.idle_timeout.seconds of an NLB's listener (350)."
            }
            Finding::IdleShort => {
                "The limit is longer than the 15 s between pings, so streams live; but one late ping \
                 cuts them. Allow an hour, at least a minute: HAProxy: `timeout tunnel 1h`. nginx: \
                 `proxy_read_timeout 1h`. Envoy: stream_idle_timeout and the route's idle_timeout, 0s. \
                 AWS: idle_timeout.timeout_seconds."
            }
            Finding::LifeLimit => {
                "The stream was cut though something was said in it: somebody limits how long it may \
                 live. Envoy: `timeout: 0s` on the route, no max_stream_duration, no \
                 max_connection_duration. HAProxy has no such limit but hard-stop-after at a reload; \
                 nginx worker_shutdown_timeout; gorouter router.drain_timeout at its restart. AWS: an ALB \
                 whose targets are taken out, deregistration_delay. Google's HTTP balancer: timeoutSec \
                 of the backend service is the whole life of a stream. If it is not cut at the same time \
                 again, somebody restarted."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_finding_has_a_name_of_its_own_and_says_what_to_do() {
        let names: HashSet<_> = Finding::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(names.len(), Finding::ALL.len());
        for finding in Finding::ALL {
            let remedy = finding.remedy();
            assert!(remedy.len() > 80 && remedy.ends_with('.'), "{finding:?}");
            assert!(
                !remedy.contains("  ") && !remedy.contains('\n'),
                "{finding:?}"
            );
        }
    }

    #[test]
    fn what_a_balancer_does_wrong_names_its_setting_in_each_of_them() {
        use Finding::*;
        for finding in [
            PortClosed,
            PlainOnTlsPort,
            TlsOnPlainPort,
            TlsVersion,
            CertificateExpired,
            CertificateName,
            CertificateIssuer,
            Http2Only,
            NotOurs,
            UpgradeLost,
            UpgradeRefused,
            ForwardedMissing,
            ForwardedProto,
            IdleCut,
        ] {
            for balancer in ["HAProxy", "nginx", "Envoy", "gorouter", "AWS"] {
                assert!(
                    finding.remedy().contains(balancer),
                    "{finding:?}: {balancer}"
                );
            }
        }
    }
}
