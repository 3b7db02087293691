//! Cedar requests: entities, their attributes and parents, and the context.
//!
//! Promises: no text of a request is parsed as Cedar's language: names become ids as they are. Only such circumstances
//! are put into words as some policy reads. Pure.

use std::{
    collections::{HashMap, HashSet},
    str::FromStr,
    sync::Arc,
};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, ParseErrors, Request, RestrictedExpression,
};

use super::{
    context_attributes::ContextAttributes,
    request::{AccessRequest, BodyNames, GrantResource, RequestContext, Resource, VertexKind, VertexResource},
};

type BoxedError = Box<dyn std::error::Error>;

/// The types of the schema.
pub(super) struct Types {
    pub(super) principal: EntityTypeName,
    pub(super) role: EntityTypeName,
    exporter: EntityTypeName,
    service: EntityTypeName,
    vertex: EntityTypeName,
    endpoint: EntityTypeName,
    model: EntityTypeName,
    dataset: EntityTypeName,
    bucket: EntityTypeName,
    service_account: EntityTypeName,
    grant: EntityTypeName,
}

/// Labels of exporters, by exporter.
pub(super) type Labels = HashMap<Arc<str>, Vec<(String, String)>>;

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

impl Types {
    pub(super) fn new() -> Result<Self, Box<ParseErrors>> {
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
            grant: EntityTypeName::from_str("Grant")?,
        })
    }

    pub(super) fn principal(&self, name: &str) -> EntityUid {
        uid(&self.principal, name)
    }

    pub(super) fn role(&self, role: &str) -> EntityUid {
        uid(&self.role, role)
    }

    pub(super) fn kind(&self, resource: &Resource) -> &EntityTypeName {
        match resource {
            Resource::Exporter(_) => &self.exporter,
            Resource::Service(_) => &self.service,
            Resource::Vertex(vertex) => self.vertex_kind(vertex),
            Resource::Grant(_) => &self.grant,
        }
    }

    fn vertex_kind(&self, resource: &VertexResource) -> &EntityTypeName {
        match resource.kind {
            VertexKind::Endpoint => &self.endpoint,
            VertexKind::Model { .. } => &self.model,
            VertexKind::Dataset => &self.dataset,
            VertexKind::Other => &self.vertex,
        }
    }

    /// The resource, and behind it what it is in.
    pub(super) fn resource(&self, resource: &Resource) -> Vec<EntityUid> {
        let own = uid(self.kind(resource), resource.id());
        let whole = if let Resource::Vertex(vertex) = resource { self.whole_model(vertex) } else { None };
        [own].into_iter().chain(whole).collect()
    }

    /// A version of a model is in the model.
    fn whole_model(&self, resource: &VertexResource) -> Option<EntityUid> {
        let VertexKind::Model { version: Some(version), .. } = &resource.kind else { return None };
        let whole = resource.name.strip_suffix(&**version)?.strip_suffix('@')?;
        Some(uid(&self.model, whole))
    }

    fn vertex_entity(&self, resource: &VertexResource) -> Result<Entity, BoxedError> {
        let mut attributes = HashMap::from([("location".into(), text(&resource.location))]);
        attributes.extend(resource.project.iter().map(|project| ("project".into(), text(project))));
        if let VertexKind::Model { publisher, version } = &resource.kind {
            attributes.extend(publisher.iter().map(|publisher| ("publisher".into(), text(publisher))));
            attributes.extend(version.iter().map(|version| ("version".into(), text(version))));
        }
        let own = uid(self.vertex_kind(resource), &resource.name);
        Ok(Entity::new(own, attributes, self.whole_model(resource).into_iter().collect())?)
    }

    fn resource_entity(&self, resource: &Resource, labels: &Labels) -> Result<Entity, BoxedError> {
        Ok(match resource {
            Resource::Exporter(name) => {
                let tags = labels.get(name).into_iter().flatten().map(|(label, value)| (label.clone(), text(value)));
                Entity::new_with_tags(uid(&self.exporter, name), [], [], tags)?
            }
            Resource::Service(name) => Entity::new_no_attrs(uid(&self.service, name), HashSet::new()),
            Resource::Vertex(resource) => self.vertex_entity(resource)?,
            Resource::Grant(grant) => self.grant_entity(grant)?,
        })
    }

    fn grant_entity(&self, grant: &GrantResource) -> Result<Entity, BoxedError> {
        let seconds = RestrictedExpression::new_long(i64::try_from(grant.seconds).unwrap_or(i64::MAX));
        let attributes = HashMap::from([
            ("role".into(), text(&grant.role)),
            ("resource".into(), text(&grant.resource)),
            ("asker".into(), RestrictedExpression::new_entity_uid(self.principal(&grant.asker))),
            ("seconds".into(), seconds),
        ]);
        Ok(Entity::new(uid(&self.grant, &grant.id), attributes, HashSet::new())?)
    }

    /// The requester of a grant, if it is not the principal. The entity has no roles: they may have changed.
    fn asker_entity(&self, grant: &GrantResource) -> Result<Entity, BoxedError> {
        let attributes = [("issuer", &*grant.issuer), ("subject", &*grant.subject)].map(|(k, v)| (k.into(), text(v)));
        Ok(Entity::new(self.principal(&grant.asker), attributes.into(), HashSet::new())?)
    }

    /// The question, with as much of its context as is read.
    pub(super) fn to_cedar(
        &self,
        access: AccessRequest<'_>,
        action: &Entity,
        roles: &[Arc<str>],
        labels: &Labels,
        reads: ContextAttributes,
    ) -> Result<(Request, Entities), BoxedError> {
        let AccessRequest { principal, resource, context, .. } = access;
        let attributes =
            [("issuer", &*principal.issuer), ("subject", &*principal.subject)].map(|(k, v)| (k.into(), text(v)));
        let parents = roles.iter().map(|role| self.role(role)).collect();
        let principal = Entity::new(self.principal(&principal.name), attributes.into(), parents)?;
        let resource = self.resource_entity(resource, labels)?;
        let context = self.context(context, reads)?;
        let request = Request::new(principal.uid(), action.uid(), resource.uid(), context, None)?;
        let mut entities = vec![principal, action.clone()];
        if let Some(named) = access.context.names.filter(|_| reads.any_of(ContextAttributes::NAMES)) {
            for other in named.resources.iter().filter(|other| *other.name != **access.resource.id()) {
                entities.push(self.vertex_entity(other)?);
            }
        }
        if let Resource::Grant(grant) = access.resource
            && grant.asker != access.principal.name
        {
            entities.push(self.asker_entity(grant)?);
        }
        entities.push(resource);
        Ok((request, Entities::from_entities(entities, None)?))
    }

    fn context(&self, context: RequestContext<'_>, reads: ContextAttributes) -> Result<Context, BoxedError> {
        let RequestContext { now, peer, tls, certificate, method, size, names: named } = context;
        let mut context: Vec<(String, RestrictedExpression)> = Vec::new();
        let mut add = |what: ContextAttributes,
                       name: &str,
                       value: &dyn Fn() -> Result<Option<RestrictedExpression>, BoxedError>| {
            if reads.any_of(what) {
                context.extend(value()?.map(|value| (name.to_owned(), value)));
            }
            Ok::<(), BoxedError>(())
        };
        add(ContextAttributes::PEER, "peer", &|| Ok(Some(RestrictedExpression::new_ip(peer.to_string()))))?;
        add(ContextAttributes::METHOD, "method", &|| Ok(Some(text(method.as_str()))))?;
        add(ContextAttributes::TLS, "tls", &|| Ok(Some(RestrictedExpression::new_bool(tls))))?;
        add(ContextAttributes::TIME, "time", &|| Ok(Some(RestrictedExpression::new_datetime(format!("{now:.3}")))))?;
        add(ContextAttributes::SIZE, "size", &|| {
            Ok(size.map(|size| RestrictedExpression::new_long(i64::try_from(size).unwrap_or(i64::MAX))))
        })?;
        add(ContextAttributes::CERTIFICATE, "certificate", &|| {
            let names = |names: &[Box<str>]| RestrictedExpression::new_set(names.iter().map(|name| text(name)));
            let Some(certificate) = certificate else { return Ok(None) };
            let fields =
                [("uris".into(), names(&certificate.uris)), ("dns_names".into(), names(&certificate.dns_names))];
            Ok(Some(RestrictedExpression::new_record(fields)?))
        })?;
        add(ContextAttributes::NAMES, "names", &|| named.map(|named| self.names(named)).transpose())?;
        Ok(Context::from_pairs(context)?)
    }

    /// What a body names, by kind: Cedar's sets hold one type each.
    fn names(&self, named: &BodyNames) -> Result<RestrictedExpression, BoxedError> {
        let of_kind = |is_kind: fn(&VertexKind) -> bool| {
            let found = named.resources.iter().filter(|resource| is_kind(&resource.kind));
            let uids = found.map(|resource| uid(self.vertex_kind(resource), &resource.name));
            RestrictedExpression::new_set(uids.map(RestrictedExpression::new_entity_uid))
        };
        let others = |kind: &EntityTypeName, names: &mut dyn Iterator<Item = &Box<str>>| {
            RestrictedExpression::new_set(names.map(|name| RestrictedExpression::new_entity_uid(uid(kind, name))))
        };
        Ok(RestrictedExpression::new_record([
            ("endpoints".into(), of_kind(|kind| matches!(kind, VertexKind::Endpoint))),
            ("models".into(), of_kind(|kind| matches!(kind, VertexKind::Model { .. }))),
            ("datasets".into(), of_kind(|kind| matches!(kind, VertexKind::Dataset))),
            ("others".into(), of_kind(|kind| matches!(kind, VertexKind::Other))),
            ("buckets".into(), others(&self.bucket, &mut named.buckets.iter())),
            ("service_accounts".into(), others(&self.service_account, &mut named.service_accounts.iter())),
        ])?)
    }
}
