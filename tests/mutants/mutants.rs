//! Every increment of the ledger, by the text that holds it.
//!
//! Each of them is made conditional in a copy of the sources: `MUTANT=name` skips it. The text
//! must be there exactly once, so that a ledger that was changed is a list that has to be.

/// One increment.
pub(crate) struct Mutant {
    /// What it counts.
    pub(crate) name: &'static str,
    /// The file it is in.
    pub(crate) file: &'static str,
    /// What stands somewhere before it, if it stands in more places than one.
    pub(crate) behind: &'static str,
    /// How the statement begins; it goes on to its `;`, or the `,` of a match arm.
    pub(crate) statement: &'static str,
}

const fn mutant(
    name: &'static str,
    file: &'static str,
    behind: &'static str,
    statement: &'static str,
) -> Mutant {
    Mutant {
        name,
        file,
        behind,
        statement,
    }
}

const LOG: &str = "transport/src/log.rs";
const GROUP: &str = "transport/src/log/group.rs";
const DOOR: &str = "doppler/src/ingress/account.rs";
const STORE: &str = "doppler/src/router/app_store.rs";
const STREAMS: &str = "traffic-controller/src/streams.rs";
const HOP: &str = "traffic-controller/src/dopplers/hop.rs";
const APP_LINK: &str = "traffic-controller/src/dopplers/app_link.rs";

/// All of them.
pub(crate) const ALL: [Mutant; 44] = [
    // A message at a Doppler's door.
    mutant("door-taken", DOOR, "", "account.taken += envelopes;"),
    mutant("door-accepted", DOOR, "", "self.account.accepted += 1;"),
    mutant(
        "door-dropped",
        DOOR,
        "",
        "self.account.dropped.add(reason, 1);",
    ),
    mutant(
        "door-conversions",
        DOOR,
        "",
        "self.account.conversions += u64::from(conversions);",
    ),
    mutant(
        "door-published",
        DOOR,
        "",
        "self.account.published += envelopes;",
    ),
    mutant(
        "door-unread",
        DOOR,
        "",
        "self.account.unread += u64::from(envelopes);",
    ),
    // All messages there. That a message is added at all cannot be missed by equations that have
    // it in every term or in none: a `Tally` adds itself when it is dropped.
    mutant("doors-taken", DOOR, "", "self.taken += other.taken;"),
    mutant(
        "doors-accepted",
        DOOR,
        "",
        "self.accepted += other.accepted;",
    ),
    mutant("doors-dropped", DOOR, "", "self.dropped += other.dropped;"),
    mutant(
        "doors-conversions",
        DOOR,
        "",
        "self.conversions += other.conversions;",
    ),
    mutant(
        "doors-published",
        DOOR,
        "",
        "self.published += other.published;",
    ),
    mutant("doors-unread", DOOR, "", "self.unread += other.unread;"),
    // A firehose group at a Doppler, and a tail at a Traffic Controller.
    mutant(
        "log-offered",
        GROUP,
        "",
        "self.offered += weight.of_filter(self.filter);",
    ),
    mutant("log-notice", GROUP, "", "self.notices += 1;"),
    mutant("log-sent", GROUP, "", "self.sent += frames;"),
    mutant(
        "log-dropped",
        GROUP,
        "",
        "self.dropped.add(reason, frames);",
    ),
    mutant(
        "log-residue",
        GROUP,
        "",
        "self.dropped(Reason::CloseResidue, started);",
    ),
    mutant("log-overflow", LOG, "", "group.lost(overflow, lost);"),
    mutant("log-no-member", LOG, "", "group.dropped(reason, unread);"),
    mutant("log-drain", LOG, "", "group.lost(Reason::Drain, weight);"),
    // A tail that begins with what is kept and with what came while that was asked for.
    mutant(
        "tail-began",
        GROUP,
        "",
        "self.offered(first.weight_from(0));",
    ),
    mutant("tail-began-short", GROUP, "", "self.offered += frames;"),
    mutant(
        "tail-began-dropped",
        GROUP,
        "",
        "self.dropped(reason, frames);",
    ),
    // An app's queue at a Doppler.
    mutant("app-offered", STORE, "", "queue.offered += 1;"),
    mutant("app-notice", STORE, "", "self.notices += 1;"),
    mutant(
        "app-notice-held",
        STORE,
        "self.notices += 1;",
        "self.held += 1;",
    ),
    mutant(
        "app-held",
        STORE,
        "self.deficit -= frame.len();",
        "self.held += 1;",
    ),
    mutant("app-sent", STORE, "", "queue.sent += envelopes"),
    mutant("app-residue", STORE, "", "queue.lost(reason, envelopes)"),
    mutant(
        "app-overflow",
        STORE,
        "",
        "self.lost(Reason::AppOverflow, 1)",
    ),
    mutant(
        "app-no-member",
        STORE,
        "",
        "self.lost(reason, self.frames.len() as u64);",
    ),
    mutant(
        "app-dropped",
        STORE,
        "",
        "self.dropped.add(reason, envelopes);",
    ),
    mutant("app-drain", STORE, "", "queue.lost(Reason::Drain, 1);"),
    // A firehose client at a Traffic Controller.
    mutant(
        "client-received",
        STREAMS,
        "",
        "account.offered += envelopes;",
    ),
    mutant("client-in-hand", STREAMS, "", "account.queued = envelopes;"),
    mutant("client-sent", STREAMS, "", "account.sent += envelopes;"),
    mutant(
        "client-cut-off-sent",
        STREAMS,
        "",
        "account.sent += written;",
    ),
    mutant(
        "client-cut-off-lost",
        STREAMS,
        "",
        "account.dropped.add(reason, lost);",
    ),
    // An app link at a Traffic Controller.
    mutant("link-received", HOP, "", "life.sums.received += envelopes;"),
    mutant("link-appended", HOP, "", "self.appended += other.appended;"),
    mutant("link-answered", APP_LINK, "", "delivered.answers += 1;"),
    mutant(
        "link-no-member",
        APP_LINK,
        "",
        "delivered.dropped.add(Reason::NoMember, count);",
    ),
    mutant(
        "link-malformed",
        APP_LINK,
        "",
        "delivered.dropped.add(Reason::Malformed, 1);",
    ),
    mutant("link-dropped", HOP, "", "self.dropped += other.dropped;"),
];
