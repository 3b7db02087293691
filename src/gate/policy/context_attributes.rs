//! Context attributes that a policy can read: the part of Cedar's context that its decision depends on.
//!
//! Promises: sound. What this does not understand counts as reading everything, so a decision is never remembered, nor a
//! context built, without something that a policy looks at. Pure.

use std::ops::BitOrAssign;

use cedar_policy::{
    Policy,
    pst::{BinaryOp, Clause, Expr, Literal, Var},
};

/// A set of the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ContextAttributes(u8);

impl ContextAttributes {
    pub(super) const NOTHING: Self = Self(0);
    pub(super) const PEER: Self = Self(1);
    pub(super) const METHOD: Self = Self(1 << 1);
    pub(super) const TLS: Self = Self(1 << 2);
    pub(super) const TIME: Self = Self(1 << 3);
    pub(super) const CERTIFICATE: Self = Self(1 << 4);
    pub(super) const SIZE: Self = Self(1 << 5);
    /// What the body names; with it come the entities that it names.
    pub(super) const NAMES: Self = Self(1 << 6);
    pub(super) const ALL: Self = Self((1 << 7) - 1);

    /// Both.
    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `other` is in it.
    pub(super) fn any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What a policy can read. Its scope reads nothing of the context.
    pub(super) fn of(policy: &Policy) -> Self {
        if !policy.has_non_scope_constraint() {
            return Self::NOTHING;
        }
        let Ok(tree) = policy.to_pst() else { return Self::ALL };
        let mut reads = Self::NOTHING;
        for clause in tree.body().clauses() {
            let (Clause::When(expression) | Clause::Unless(expression)) = clause;
            reads.walk(expression);
        }
        reads
    }

    fn attribute(name: &str) -> Self {
        match name {
            "peer" => Self::PEER,
            "method" => Self::METHOD,
            "tls" => Self::TLS,
            "time" => Self::TIME,
            "certificate" => Self::CERTIFICATE,
            "size" => Self::SIZE,
            "names" => Self::NAMES,
            _ => Self::ALL,
        }
    }

    fn walk(&mut self, expression: &Expr) {
        match expression {
            Expr::Literal(literal) => *self |= Self::known(literal),
            Expr::Var(Var::Context) => *self |= Self::ALL,
            // principal, action and resource are what a decision is remembered under
            Expr::Var(_) => {}
            Expr::GetAttr { expr, attr } if is_context(expr) => *self |= Self::attribute(attr),
            Expr::HasAttr { expr, attrs } if is_context(expr) => *self |= Self::attribute(attrs.first()),
            Expr::GetAttr { expr, .. }
            | Expr::HasAttr { expr, .. }
            | Expr::Like { expr, .. }
            | Expr::UnaryOp { expr, .. } => self.walk(expr),
            Expr::Is { expr, in_expr, .. } => {
                self.walk(expr);
                in_expr.iter().for_each(|within| self.compare(within));
            }
            Expr::BinaryOp { op, left, right } => match op {
                BinaryOp::Eq | BinaryOp::NotEq | BinaryOp::Contains | BinaryOp::ContainsAll | BinaryOp::ContainsAny => {
                    self.compare(left);
                    self.compare(right);
                }
                BinaryOp::In => {
                    self.walk(left);
                    self.compare(right);
                }
                _ => {
                    self.walk(left);
                    self.walk(right);
                }
            },
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                [cond, then_expr, else_expr].into_iter().for_each(|part| self.walk(part));
            }
            Expr::Set(items) => items.iter().for_each(|item| self.walk(item)),
            Expr::Record(members) => members.values().for_each(|member| self.walk(member)),
            _ => *self |= Self::ALL,
        }
    }

    /// An expression that is only compared: the name of an entity in it is a name, whatever else is known of the entity.
    fn compare(&mut self, expression: &Expr) {
        match expression {
            Expr::Literal(_) => {}
            Expr::Set(items) => items.iter().for_each(|item| self.compare(item)),
            other => self.walk(other),
        }
    }

    /// An entity that a policy names and looks into (its attributes, what it is in) is known or not by what the body
    /// names.
    fn known(literal: &Literal) -> Self {
        match literal {
            Literal::Bool(_) | Literal::Long(_) | Literal::String(_) => Self::NOTHING,
            _ => Self::NAMES,
        }
    }
}

impl BitOrAssign for ContextAttributes {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.or(other);
    }
}

fn is_context(expression: &Expr) -> bool {
    matches!(expression, Expr::Var(Var::Context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(condition: &str, expected: ContextAttributes) {
        let text = format!("permit (principal in Role::\"r\", action in Action::\"a\", resource) {condition};");
        let policy = Policy::parse(None, &text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(ContextAttributes::of(&policy), expected, "{condition}");
    }

    #[test]
    fn a_policy_reads_what_it_names_of_the_context() {
        check("", ContextAttributes::NOTHING);
        check("when { true }", ContextAttributes::NOTHING);
        check("when { principal.issuer == \"time\" && resource.location == \"peer\" }", ContextAttributes::NOTHING);
        check("when { context.tls }", ContextAttributes::TLS);
        check("unless { context.tls }", ContextAttributes::TLS);
        check("when { context.peer.isInRange(ip(\"10.0.0.0/8\")) }", ContextAttributes::PEER);
        check(
            "when { context[\"method\"] == \"GET\" } unless { context.peer.isLoopback() }",
            ContextAttributes::METHOD.or(ContextAttributes::PEER),
        );
        check("when { context.time > datetime(\"2026-01-01\") }", ContextAttributes::TIME);
        check(
            "when { context.time.toTime() > duration(\"8h\") || context.tls }",
            ContextAttributes::TIME.or(ContextAttributes::TLS),
        );
        check(
            "when { context has certificate && context.certificate.uris.contains(\"a\") }",
            ContextAttributes::CERTIFICATE,
        );
        check("when { context has certificate.uris }", ContextAttributes::CERTIFICATE);
        check("when { context has size && context.size < 10 + 2 }", ContextAttributes::SIZE);
        check(
            "when { if context.tls then context.method == \"GET\" else false }",
            ContextAttributes::TLS.or(ContextAttributes::METHOD),
        );
        check("when { [context.tls].contains(true) }", ContextAttributes::TLS);
        check("when { {a: context.tls}.a }", ContextAttributes::TLS);
        check("when { context.method like \"P*\" }", ContextAttributes::METHOD);
        check("when { !(context has names) }", ContextAttributes::NAMES);
    }

    #[test]
    fn what_is_no_plain_reading_reads_everything() {
        check("when { context == {} }", ContextAttributes::ALL);
        check("when { [context].contains({}) }", ContextAttributes::ALL);
        check("when { {a: context}.a.tls }", ContextAttributes::ALL);
        check("when { (if true then context else context).tls }", ContextAttributes::ALL);
        check("when { context has anything }", ContextAttributes::ALL);
        check("when { context.getTag(\"x\") == 1 }", ContextAttributes::ALL);
    }

    #[test]
    fn an_entity_that_is_looked_into_depends_on_what_the_body_names() {
        check("when { resource == Model::\"m\" }", ContextAttributes::NOTHING);
        check("when { resource in Model::\"m\" }", ContextAttributes::NOTHING);
        check("when { resource in [Model::\"m\", Model::\"n\"] }", ContextAttributes::NOTHING);
        check("when { [Model::\"m\"].contains(resource) }", ContextAttributes::NOTHING);
        check("when { resource is Model in Model::\"m\" }", ContextAttributes::NOTHING);
        check("when { Model::\"m@2\" in Model::\"m\" }", ContextAttributes::NAMES);
        check("when { Model::\"m\".location == \"x\" }", ContextAttributes::NAMES);
        check("when { Model::\"m\" has version }", ContextAttributes::NAMES);
        check("when { Exporter::\"e\".hasTag(\"team\") }", ContextAttributes::NAMES);
        check(
            "when { (if context.tls then Model::\"m\" else Model::\"n\").location == \"x\" }",
            ContextAttributes::TLS.or(ContextAttributes::NAMES),
        );
    }
}
