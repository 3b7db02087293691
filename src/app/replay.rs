//! Replay of an audit log against two policy sets: the decisions that differ.
//!
//! Promises: a log whose chain is broken is not replayed unless the caller insists; every line is either replayed or
//! counted as what it is; each request counts once. Streams: memory grows with the requests that were open at once and
//! with the number of different changes.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::{BufReader, Error},
    path::Path,
};

use uuid::Uuid;

use crate::{
    gate::{
        audit::{
            Decision, Event, Line, Lines, RecordedBodyNames, RecordedCertificate, RecordedGrantRequest, Verdict, verify,
        },
        policy::{
            BodyNames, Change, ChangeCount, Denial, GrantResource, Policy, RecordedRequest, Replay, Resource,
            VertexResource,
        },
        routes,
    },
    peer::Certificate,
    principal::Principal,
};

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReplaySummary {
    /// Lines that were read.
    pub lines: u64,
    /// Requests that were put to both sets.
    pub replayed: u64,
    /// Of these, those that the old set decides otherwise than the record says: it is not what was served then.
    pub unlike_record: u64,
    /// Requests that were refused before policy was asked.
    pub refused_before: u64,
    /// Requests whose record lacks something that policy was told.
    pub incomplete: u64,
    /// Lines that are none of an audit log, or of events that this version does not know.
    pub unreadable: u64,
    /// Lines that the gate itself could not write.
    pub lost: u64,
}

/// Why a log was not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] Error),
    /// Its chain breaks.
    #[error("line {line}: {why}, so it was changed or is cut; `--unverified` replays it all the same")]
    Broken {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Puts what the log at `path` holds to both sets. The chain is verified first unless `unverified`.
///
/// # Errors
/// When the log cannot be read, or its chain is broken.
pub fn replay(
    path: &Path,
    old: &Policy,
    new: &Policy,
    unverified: bool,
) -> Result<(ReplaySummary, Vec<(Change, ChangeCount)>), ReplayError> {
    let open = || File::open(path).map(BufReader::new).map_err(ReplayError::Unreadable);
    let verified = match unverified {
        true => u64::MAX,
        false => match verify(open()?).map_err(ReplayError::Unreadable)? {
            Verdict::Whole { lines } => lines,
            Verdict::Broken { line, why } => return Err(ReplayError::Broken { line, why }),
        },
    };
    let mut lines = Lines::new(open()?);
    let mut reading = Reading::new(old, new);
    // a gate may be appending: what came since is not verified
    while reading.summary.lines < verified {
        let Some(line) = lines.advance().map_err(ReplayError::Unreadable)? else { break };
        reading.read(line);
    }
    Ok((reading.summary, reading.replay.changes()))
}

/// A log that is being read.
struct Reading<'p> {
    replay: Replay<'p>,
    summary: ReplaySummary,
    /// Requests that were permitted and are not over yet: they count already.
    open: HashSet<Uuid>,
    /// The actions whose resources are Vertex'.
    vertex: HashSet<&'static str>,
}

impl<'p> Reading<'p> {
    fn new(old: &'p Policy, new: &'p Policy) -> Self {
        let vertex = routes::vertex_actions().collect();
        Self { replay: Replay::new(old, new), summary: ReplaySummary::default(), open: HashSet::new(), vertex }
    }

    fn read(&mut self, line: Option<Line<'_>>) {
        self.summary.lines += 1;
        let Some(line) = line else {
            self.summary.unreadable += 1;
            return;
        };
        match line.event {
            Event::Permit => self.open.extend(line.id),
            Event::Request if line.id.is_some_and(|id| self.open.remove(&id)) => return,
            Event::Request => {}
            Event::Lost => {
                self.summary.lost += line.lines;
                return;
            }
            Event::Other => {
                self.summary.unreadable += 1;
                return;
            }
        }
        if line.policies.is_none() {
            self.summary.refused_before += 1;
            return;
        }
        let Some(recorded) = self.recorded_request(&line) else {
            self.summary.incomplete += 1;
            return;
        };
        let decision = self.replay.evaluate(&recorded);
        self.summary.replayed += 1;
        // what was permitted may have been refused later, for want of something else
        let denied = line.reason.as_deref().is_some_and(|reason| Denial::REASONS.contains(&reason));
        let allowed = line.decision == Some(Decision::Allow) || !denied;
        self.summary.unlike_record += u64::from(allowed != decision.allowed);
    }

    /// The question that a line tells of; nothing where something of it is missing.
    fn recorded_request(&self, line: &Line<'_>) -> Option<RecordedRequest> {
        let issuer = line.issuer.as_deref()?;
        let name = line.principal.as_deref()?;
        let subject = name.strip_prefix(issuer)?.strip_prefix(':')?;
        let context = line.context.as_ref().filter(|context| !context.cut)?;
        let roles = line.held_roles.clone().or_else(|| line.roles.clone())?;
        let action = line.action.clone()?;
        let resource = line.resource.as_deref()?;
        let resource = match line.route.as_deref() {
            Some("exporter") => Resource::Exporter(resource.into()),
            _ if self.vertex.contains(&*action) => Resource::Vertex(VertexResource::parse(resource)),
            // policy was asked about the grant, which a line without it cannot tell; the list is a service
            Some("grants") if *action != *routes::LIST_GRANTS => grant(resource, line.grant.as_ref()?)?,
            _ => Resource::Service(resource.into()),
        };
        let certificate =
            |names: &RecordedCertificate| Certificate::hypothetical(names.uris.clone(), names.dns_names.clone());
        Some(RecordedRequest {
            principal: Principal::hypothetical(issuer, subject, "{}", Some(roles)),
            active_role: line.active_role.as_deref().map(Into::into),
            action,
            resource,
            at: line.at,
            peer: line.peer?.ip(),
            method: line.method.as_deref()?.parse().ok()?,
            tls: context.tls,
            size: context.size,
            certificate: context.certificate.as_ref().map(certificate),
            names: context.names.as_ref().map(named),
        })
    }
}

/// The grant that policy was asked about.
fn grant(id: &str, request: &RecordedGrantRequest) -> Option<Resource> {
    // no issuer's name has a colon
    let (issuer, subject) = request.asker.split_once(':')?;
    Some(Resource::Grant(Box::new(GrantResource {
        id: id.into(),
        role: request.role.clone(),
        resource: request.resource.clone(),
        asker: request.asker.clone(),
        issuer: issuer.into(),
        subject: subject.into(),
        seconds: request.seconds,
    })))
}

fn named(names: &RecordedBodyNames) -> BodyNames {
    let owned = |names: &[Box<str>]| names.iter().cloned().collect::<BTreeSet<_>>();
    BodyNames {
        resources: names.resources.iter().map(|name| VertexResource::parse(name)).collect(),
        buckets: owned(&names.buckets),
        service_accounts: owned(&names.service_accounts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::policy::{PolicyFile, Roles};

    fn check(lines: &[String], expected: &ReplaySummary) {
        let schema = "entity Role; entity Principal in [Role] { issuer: String, subject: String }; entity Exporter;
            type Request = { peer: ipaddr, method: String, tls: Bool, time: datetime };
            action Read appliesTo { principal: Principal, resource: Exporter, context: Request };";
        let file = |text: &str| PolicyFile { path: "a".into(), text: text.into() };
        let policies = [file("permit (principal, action, resource);")];
        let policy = Policy::new(Roles::default(), &file(schema), &policies, std::iter::empty()).unwrap();
        let mut reading = Reading::new(&policy, &policy);
        let text = lines.join("\n");
        let mut lines = Lines::new(text.as_bytes());
        while let Some(line) = lines.advance().unwrap() {
            reading.read(line);
        }
        assert_eq!(reading.summary, *expected, "{text}");
    }

    fn line(event: &str, id: u8, rest: &str) -> String {
        format!(
            "{{\"event\":\"{event}\",\"time\":\"2026-01-02T03:04:05Z\",\"id\":\"01890000-0000-7000-8000-0000000000{id:02}\",\
             \"peer\":\"127.0.0.1:1\",\"method\":\"GET\",\"principal\":\"corp:s\",\"issuer\":\"corp\",\"roles\":[],\
             \"route\":\"exporter\",\"action\":\"Read\",\"resource\":\"e\",{rest}}}"
        )
    }

    const ALLOWED: &str = "\"decision\":\"allow\",\"policies\":[\"p\"],\"context\":{\"tls\":true}";

    #[test]
    fn a_request_counts_once_whichever_of_its_lines_are_there() {
        let permit = |id| line("permit", id, ALLOWED);
        let request = |id| line("request", id, ALLOWED);
        let summary = |lines, replayed| ReplaySummary { lines, replayed, ..ReplaySummary::default() };
        check(&[permit(1), request(1)], &summary(2, 1));
        check(&[permit(1), permit(2), request(2), request(1)], &summary(4, 2));
        // one never ended, the other began in a log that is not here
        check(&[permit(1), request(2)], &summary(2, 2));
    }

    #[test]
    fn what_was_asked_of_a_grant_is_asked_of_that_grant_again() {
        let file = |text: &str| PolicyFile { path: "a".into(), text: text.into() };
        let schema = file(include_str!("../../policies/wicketgate.cedarschema"));
        let of = |seconds: u64| {
            let text = format!(
                "permit (principal, action == Action::\"Grant.Approve\", resource) when {{ resource.role == \"infer\" && \
                 resource.resource == \"exporter/e\" && resource.asker.issuer == \"corp\" && resource.asker != principal \
                 && resource.seconds <= {seconds} }};"
            );
            Policy::new(Roles::default(), &schema, &[file(&text)], std::iter::empty()).unwrap()
        };
        let old = of(3600);
        let new = of(60);
        let text = line("permit", 1, ALLOWED).replace("\"Read\"", "\"Grant.Approve\"").replace("exporter", "grants");
        let asked = "\"grant\":{\"id\":\"e\",\"asker\":\"corp:a:b\",\"role\":\"infer\",\"resource\":\"exporter/e\",\
                     \"reason\":\"r\",\"seconds\":3600},\"context\"";
        let text = format!("{}\n{}", text.replace("\"context\"", asked), text.replace("permit", "request"));
        let mut reading = Reading::new(&old, &new);
        let mut lines = Lines::new(text.as_bytes());
        while let Some(line) = lines.advance().unwrap() {
            reading.read(line);
        }
        // the second line is of the same request, whose record was written by a version without it
        assert_eq!(reading.summary, ReplaySummary { lines: 2, replayed: 1, ..ReplaySummary::default() }, "{text}");
        let changes = reading.replay.changes();
        let [(change, _)] = &changes[..] else { panic!("{changes:?}") };
        assert!(change.old.allowed && !change.new.allowed, "{change:?}");
        let alone = text.lines().nth(1).unwrap();
        let mut reading = Reading::new(&old, &new);
        let mut lines = Lines::new(alone.as_bytes());
        reading.read(lines.advance().unwrap().unwrap());
        assert_eq!(reading.summary, ReplaySummary { lines: 1, incomplete: 1, ..ReplaySummary::default() }, "{alone}");
    }

    #[test]
    fn every_line_is_counted_as_what_it_is() {
        let cut = ALLOWED.replace("\"tls\":true", "\"tls\":true,\"cut\":true");
        let late = ALLOWED.replace("\"allow\"", "\"deny\"");
        let of = |reason: &str| format!("{late},\"reason\":\"{reason}\"");
        let lines = [
            line("request", 1, "\"decision\":\"deny\",\"reason\":\"token_expired\""),
            line("request", 2, &cut),
            line("request", 3, &ALLOWED.replace("context", "c")),
            "{\"event\":\"lost\",\"time\":\"2026-01-02T03:04:05Z\",\"lines\":3}".into(),
            line("checkpoint", 4, ALLOWED),
            "nonsense".into(),
            // what policy allowed and something else refused is allowed by policy
            line("request", 5, &of("upstream_unavailable")),
            line("request", 6, &of("not_permitted")),
        ];
        let expected = ReplaySummary {
            lines: 8,
            replayed: 2,
            unlike_record: 1,
            refused_before: 1,
            incomplete: 2,
            unreadable: 2,
            lost: 3,
        };
        check(&lines, &expected);
    }
}
