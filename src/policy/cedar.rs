//! The door to Cedar: schema and policies compiled once, questions put to them.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, Request,
    RestrictedExpression, Schema, ValidationMode, Validator,
};
use miette::Diagnostic;

use super::{Denial, Named, Question, Resource, Ruling, VertexKind, VertexResource};

/// A file of policies, or the schema.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// For messages.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

/// One thing that is wrong with schema or policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyProblem {
    /// The file it is in.
    pub file: PathBuf,
    /// The line, from 1; 0 where Cedar does not say.
    pub line: usize,
    /// What is wrong.
    pub text: String,
}

/// Compiled policies.
pub(super) struct Policies {
    set: PolicySet,
    names: HashMap<PolicyId, Arc<str>>,
    actions: HashMap<Box<str>, Entity>,
    authorizer: Authorizer,
    types: Types,
    /// The roles that policies speak of.
    pub(super) mentioned: HashSet<Box<str>>,
    /// Whether an answer may depend on what memory does not keep: a policy speaks of it.
    pub(super) by_circumstance: bool,
}

struct Types {
    principal: EntityTypeName,
    role: EntityTypeName,
    exporter: EntityTypeName,
    service: EntityTypeName,
    vertex: EntityTypeName,
    endpoint: EntityTypeName,
    model: EntityTypeName,
    dataset: EntityTypeName,
    bucket: EntityTypeName,
    service_account: EntityTypeName,
}

impl Policies {
    pub(super) fn new<'a>(
        schema_file: &PolicyFile,
        files: &[PolicyFile],
        needed: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Vec<PolicyProblem>> {
        let (schema, _) = Schema::from_cedarschema_str(&schema_file.text)
            .map_err(|e| vec![problem(schema_file, &e, e.to_string())])?;
        let (set, names, mut problems) = read(files);
        let verdict = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
        for error in verdict.validation_errors() {
            let id = error.policy_id();
            let file = files.iter().find(|f| f.path.to_string_lossy() == file_of(id));
            problems.push(problem(file.unwrap_or(schema_file), error, error.to_string()));
        }
        let actions = schema.action_entities().map_err(|e| vec![problem(schema_file, &e, e.to_string())])?;
        let actions: HashMap<Box<str>, Entity> =
            actions.iter().map(|action| (action.uid().id().unescaped().into(), action.clone())).collect();
        for action in needed {
            if !actions.contains_key(action) {
                let text = format!(
                    "the action `{action}` is missing; take the shipped schema and put your own types behind it"
                );
                problems.push(PolicyProblem { file: schema_file.path.clone(), line: 0, text });
            }
        }
        let types = Types::new().map_err(|e| vec![problem(schema_file, &*e, e.to_string())])?;
        if problems.is_empty() {
            let words = ["time", "certificate", "size", "names"];
            let by_circumstance = files.iter().any(|file| words.iter().any(|word| file.text.contains(word)));
            let spoken_of = set.policies().flat_map(cedar_policy::Policy::entity_literals);
            let roles = spoken_of.filter(|uid| *uid.type_name() == types.role);
            let mentioned = roles.map(|uid| uid.id().unescaped().into()).collect();
            Ok(Self { set, names, actions, authorizer: Authorizer::new(), types, mentioned, by_circumstance })
        } else {
            Err(problems)
        }
    }

    /// Denies where Cedar denies or reports any error.
    pub(super) fn decide(&self, question: Question<'_>, roles: Arc<[Arc<str>]>) -> Ruling {
        let failed = |text: String, roles| Ruling {
            allowed: false,
            roles,
            policies: Arc::default(),
            denial: Some(Denial::Error(text)),
        };
        let (request, entities) = match self.phrase(question, &roles) {
            Ok(phrased) => phrased,
            Err(error) => return failed(error.to_string(), roles),
        };
        let answer = self.authorizer.is_authorized(&request, &self.set, &entities);
        let errors: Vec<String> = answer.diagnostics().errors().map(ToString::to_string).collect();
        if !errors.is_empty() {
            return failed(errors.join("; "), roles);
        }
        let mut policies: Vec<Arc<str>> =
            answer.diagnostics().reason().filter_map(|id| self.names.get(id).cloned()).collect();
        policies.sort_unstable();
        let denial = match answer.decision() {
            Decision::Allow => None,
            Decision::Deny if policies.is_empty() => Some(Denial::NotPermitted),
            Decision::Deny => Some(Denial::Forbidden),
        };
        Ruling { allowed: denial.is_none(), roles, policies: policies.into(), denial }
    }

    /// The question in Cedar's words.
    fn phrase(&self, q: Question<'_>, roles: &[Arc<str>]) -> Result<(Request, Entities), Box<dyn std::error::Error>> {
        let uid = |kind: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id));
        let action =
            self.actions.get(&**q.action).ok_or_else(|| format!("the schema lacks the action `{}`", q.action))?;
        let attributes = HashMap::from([
            ("issuer".into(), text(&q.principal.issuer)),
            ("subject".into(), text(&q.principal.subject)),
        ]);
        let parents: HashSet<EntityUid> = roles.iter().map(|role| uid(&self.types.role, role)).collect();
        let principal = Entity::new(uid(&self.types.principal, &q.principal.name), attributes, parents)?;
        let mut entities = vec![principal.clone(), action.clone()];
        let resource = match q.resource {
            Resource::Exporter(name) => Entity::new_no_attrs(uid(&self.types.exporter, name), HashSet::new()),
            Resource::Service(name) => Entity::new_no_attrs(uid(&self.types.service, name), HashSet::new()),
            Resource::Vertex(resource) => self.vertex(resource)?,
        };
        let mut context = vec![
            ("peer".into(), RestrictedExpression::new_ip(q.circumstances.peer.to_string())),
            ("method".into(), text(q.circumstances.method.as_str())),
            ("tls".into(), RestrictedExpression::new_bool(q.circumstances.tls)),
            ("time".into(), RestrictedExpression::new_datetime(format!("{:.3}", q.circumstances.now))),
        ];
        if let Some(size) = q.circumstances.size {
            context.push(("size".into(), RestrictedExpression::new_long(i64::try_from(size).unwrap_or(i64::MAX))));
        }
        if let Some(certificate) = q.circumstances.certificate {
            let names = |names: &[Box<str>]| RestrictedExpression::new_set(names.iter().map(|name| text(name)));
            let fields =
                [("uris".into(), names(&certificate.uris)), ("dns_names".into(), names(&certificate.dns_names))];
            context.push(("certificate".into(), RestrictedExpression::new_record(fields)?));
        }
        if let Some(named) = q.circumstances.named {
            for other in named.resources.iter().filter(|other| *other.name != **q.resource.id()) {
                entities.push(self.vertex(other)?);
            }
            context.push(("names".into(), self.names(named)?));
        }
        let context = Context::from_pairs(context)?;
        let request = Request::new(principal.uid(), action.uid(), resource.uid(), context, None)?;
        entities.push(resource);
        Ok((request, Entities::from_entities(entities, None)?))
    }

    fn vertex(&self, resource: &VertexResource) -> Result<Entity, Box<dyn std::error::Error>> {
        let mut attributes = HashMap::from([("location".into(), text(&resource.location))]);
        attributes.extend(resource.project.iter().map(|project| ("project".into(), text(project))));
        if let VertexKind::Model { publisher, version } = &resource.kind {
            attributes.extend(publisher.iter().map(|publisher| ("publisher".into(), text(publisher))));
            attributes.extend(version.iter().map(|version| ("version".into(), text(version))));
        }
        Ok(Entity::new(self.vertex_uid(resource), attributes, HashSet::new())?)
    }

    fn vertex_uid(&self, resource: &VertexResource) -> EntityUid {
        let kind = match resource.kind {
            VertexKind::Endpoint => &self.types.endpoint,
            VertexKind::Model { .. } => &self.types.model,
            VertexKind::Dataset => &self.types.dataset,
            VertexKind::Other => &self.types.vertex,
        };
        EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(&resource.name))
    }

    /// What a body names, by kind: Cedar's sets hold one type each.
    fn names(&self, named: &Named) -> Result<RestrictedExpression, Box<dyn std::error::Error>> {
        let of_kind = |wanted: fn(&VertexKind) -> bool| {
            let found = named.resources.iter().filter(|resource| wanted(&resource.kind));
            RestrictedExpression::new_set(
                found.map(|resource| RestrictedExpression::new_entity_uid(self.vertex_uid(resource))),
            )
        };
        let others = |kind: &EntityTypeName, names: &mut dyn Iterator<Item = &Box<str>>| {
            RestrictedExpression::new_set(names.map(|name| {
                let uid = EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name));
                RestrictedExpression::new_entity_uid(uid)
            }))
        };
        Ok(RestrictedExpression::new_record([
            ("endpoints".into(), of_kind(|kind| matches!(kind, VertexKind::Endpoint))),
            ("models".into(), of_kind(|kind| matches!(kind, VertexKind::Model { .. }))),
            ("datasets".into(), of_kind(|kind| matches!(kind, VertexKind::Dataset))),
            ("others".into(), of_kind(|kind| matches!(kind, VertexKind::Other))),
            ("buckets".into(), others(&self.types.bucket, &mut named.buckets.iter())),
            ("service_accounts".into(), others(&self.types.service_account, &mut named.service_accounts.iter())),
        ])?)
    }
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

impl Types {
    fn new() -> Result<Self, Box<cedar_policy::ParseErrors>> {
        Ok(Self {
            principal: EntityTypeName::from_str("Principal")?,
            role: EntityTypeName::from_str("Role")?,
            exporter: EntityTypeName::from_str("Exporter")?,
            service: EntityTypeName::from_str("Service")?,
            vertex: EntityTypeName::from_str("Vertex")?,
            endpoint: EntityTypeName::from_str("Endpoint")?,
            model: EntityTypeName::from_str("Model")?,
            dataset: EntityTypeName::from_str("Dataset")?,
            bucket: EntityTypeName::from_str("Bucket")?,
            service_account: EntityTypeName::from_str("ServiceAccount")?,
        })
    }
}

/// Parses all files into one set. A policy is named by its `@id`, or by its file and place in it.
fn read(files: &[PolicyFile]) -> (PolicySet, HashMap<PolicyId, Arc<str>>, Vec<PolicyProblem>) {
    let (mut all, mut names, mut problems) = (PolicySet::new(), HashMap::new(), Vec::new());
    for file in files {
        let set = match PolicySet::from_str(&file.text) {
            Ok(set) => set,
            Err(errors) => {
                problems.extend(errors.iter().map(|e| problem(file, e, e.to_string())));
                continue;
            }
        };
        if set.templates().next().is_some() {
            let text = "templates are not supported; write policies".into();
            problems.push(PolicyProblem { file: file.path.clone(), line: 0, text });
        }
        for policy in set.policies() {
            // the file is part of the id, so that two files cannot clash
            let id = PolicyId::new(format!("{}#{}", file.path.display(), policy.id()));
            let stem = file.path.file_stem().unwrap_or_default().to_string_lossy();
            let name = policy.annotation("id").map_or_else(|| format!("{stem}#{}", policy.id()), str::to_owned);
            if names.values().any(|other: &Arc<str>| **other == *name) {
                let text = format!("two policies have the id `{name}`; audit could not tell them apart");
                problems.push(PolicyProblem { file: file.path.clone(), line: 0, text });
            }
            if let Err(error) = all.add(policy.new_id(id.clone())) {
                problems.push(problem(file, &error, error.to_string()));
            }
            names.insert(id, name.into());
        }
    }
    (all, names, problems)
}

fn file_of(id: &PolicyId) -> String {
    let id: &str = id.as_ref();
    id.rsplit_once('#').map_or(id, |(file, _)| file).to_owned()
}

fn problem(file: &PolicyFile, error: &dyn Diagnostic, text: String) -> PolicyProblem {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let line = offset.map_or(0, |at| file.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1);
    PolicyProblem { file: file.path.clone(), line, text }
}
