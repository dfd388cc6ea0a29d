//! What no closure knows: asked of the `cel` crate, with the fields that the expression names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use calltap_correlate::record::{FIELDS, ValueKind};
use cel::common::ast::IdedExpr;
use cel::objects::{Key as CelKey, Map};
use cel::{Context, Env, Value};

use super::{Answer, Facts, Unanswered};

/// The functions that CEL has: to build them takes longer than any expression.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

pub(super) struct Interpreted {
    expression: IdedExpr,
    fields: Vec<usize>,
}

/// Fields by the parts of their names, as `a.b.c` asks for them.
#[derive(Default)]
struct Tree {
    below: BTreeMap<&'static str, Tree>,
    value: Option<Value>,
}

impl Interpreted {
    pub(super) fn new(expression: IdedExpr, fields: Vec<usize>) -> Self {
        Self { expression, fields }
    }

    pub(super) fn boolean(&self, facts: &dyn Facts) -> Answer<bool> {
        match self.run(facts)? {
            Value::Bool(value) => Ok(value),
            _ => Err(Unanswered::Failed),
        }
    }

    pub(super) fn text(&self, facts: &dyn Facts) -> Answer<String> {
        match self.run(facts)? {
            Value::String(text) => Ok(Arc::unwrap_or_clone(text)),
            Value::Int(number) => Ok(number.to_string()),
            Value::UInt(number) => Ok(number.to_string()),
            Value::Bool(value) => Ok(value.to_string()),
            _ => Err(Unanswered::Failed),
        }
    }

    fn run(&self, facts: &dyn Facts) -> Answer<Value> {
        let mut root = Tree::default();
        let mut absent = None;
        for &field in &self.fields {
            match value_of(facts, field) {
                Some(value) => root.insert(FIELDS[field].name, value),
                None => {
                    // What it stands in is there, so that has() can look into it.
                    root.place(parent(FIELDS[field].name));
                    absent = Some(field);
                }
            }
        }
        let mut context = Context::with_env(Arc::clone(&STANDARD));
        for (name, tree) in root.below {
            context.add_variable_from_value(name, tree.into_value());
        }
        let unanswered = absent.map_or(Unanswered::Failed, Unanswered::Absent);
        context.resolve(&self.expression).map_err(|_| unanswered)
    }
}

fn parent(name: &'static str) -> &'static str {
    name.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn value_of(facts: &dyn Facts, field: usize) -> Option<Value> {
    let text = |text: std::borrow::Cow<'_, str>| Value::String(Arc::new(text.into_owned()));
    Some(match FIELDS[field].value {
        ValueKind::Integer => Value::Int(facts.integer(field)?),
        ValueKind::Boolean => Value::Bool(facts.boolean(field)?),
        ValueKind::List(_) => {
            let list = facts.list(field)?.into_iter().map(text);
            Value::List(Arc::new(list.collect()))
        }
        _ => text(facts.text(field)?),
    })
}

impl Tree {
    fn insert(&mut self, name: &'static str, value: Value) {
        self.place(name).value = Some(value);
    }

    fn place(&mut self, name: &'static str) -> &mut Self {
        let mut place = self;
        for part in name.split('.').filter(|part| !part.is_empty()) {
            place = place.below.entry(part).or_default();
        }
        place
    }

    fn into_value(self) -> Value {
        if let Some(value) = self.value {
            return value;
        }
        let map: HashMap<CelKey, Value> = self
            .below
            .into_iter()
            .map(|(name, tree)| {
                let key = CelKey::String(Arc::new(name.to_owned()));
                (key, tree.into_value())
            })
            .collect();
        Value::Map(Map { map: Arc::new(map) })
    }
}
