//! From the text of an expression to closures, and what is wrong with it on the way.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::IpAddr;

use calltap_correlate::record::{FIELDS, ValueKind, nearest_among, nearest_of};
use cel::Program;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedEntryExpr, IdedExpr, LiteralValue,
    SelectExpr, SourceInfo, operators,
};
use regex::Regex;

use crate::detect::DETECTORS;
use crate::network::{BadNetwork, Network};

use super::interpret::Interpreted;
use super::{Code, Known, ListCode, Mistake, TextCode, Unanswered};

/// An expression, by the type of what it gives.
enum Typed {
    Boolean(Code<bool>),
    Integer(Code<i64>),
    Text(TextCode),
    List(ListCode),
}

impl Typed {
    fn name(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "a truth value",
            Self::Integer(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list of texts",
        }
    }
}

/// Why there are no closures for an expression.
enum Refusal {
    /// It is wrong.
    Wrong(Mistake),
    /// It has something that only the interpreter knows.
    Unknown,
}

impl From<Mistake> for Refusal {
    fn from(mistake: Mistake) -> Self {
        Self::Wrong(mistake)
    }
}

type Lowered<T> = Result<T, Refusal>;

pub(super) fn condition(source: &str, known: Known) -> Result<Code<bool>, Mistake> {
    let program = parse(source)?;
    let reader = Reader::new(source, &program, known);
    reader.boolean_or(
        program.expression(),
        "gives",
        "and is to give a truth value",
    )
}

/// The code, whether it names a header, and the fields with clients' addresses that it names.
pub(super) fn key(source: &str, known: Known) -> Result<(TextCode, bool, Vec<usize>), Mistake> {
    let program = parse(source)?;
    let reader = Reader::new(source, &program, known);
    let code = key_code(&reader, program.expression())?;
    Ok((code, reader.names_header.get(), reader.addresses.take()))
}

fn key_code(reader: &Reader<'_>, root: &IdedExpr) -> Result<TextCode, Mistake> {
    if let Some(thing) = compound(root) {
        let message = format!("gives {thing}, and is to give one value");
        let remedy = "join several with + \" \" +".to_owned();
        return Err(reader.mistake(root, message, Some(remedy)));
    }
    match reader.lower(root) {
        Ok(Typed::Text(code)) => Ok(code),
        Ok(Typed::Integer(code)) => Ok(Box::new(move |facts| {
            code(facts).map(|number| number.to_string().into())
        })),
        Ok(Typed::Boolean(code)) => Ok(Box::new(move |facts| {
            Ok(if code(facts)? { "true" } else { "false" }.into())
        })),
        Ok(other @ Typed::List(_)) => Err(reader.mistake(
            root,
            format!("gives {}, and is to give one value", other.name()),
            None,
        )),
        Err(Refusal::Wrong(mistake)) => Err(mistake),
        Err(Refusal::Unknown) => {
            let interpreted = reader.interpreted(root)?;
            Ok(Box::new(move |facts| {
                interpreted.text(facts).map(Cow::Owned)
            }))
        }
    }
}

/// A longer one could nest deeper than the parser's stack is.
const SOURCE_BYTES_MAX: usize = 2_048;
/// Calls, selections and operators within each other, of which each is a frame on the stack.
const DEPTH_MAX: usize = 100;

fn parse(source: &str) -> Result<Program, Mistake> {
    let wrong = |column, message| Mistake {
        column,
        message,
        remedy: None,
    };
    if source.len() > SOURCE_BYTES_MAX {
        let bytes = source.len();
        let message = format!("has {bytes} bytes; at most {SOURCE_BYTES_MAX} are read");
        return Err(wrong(1, message));
    }
    let program = Program::compile(source).map_err(|errors| {
        let Some(first) = errors.errors.first() else {
            return wrong(1, "is no expression".to_owned());
        };
        let (line, column) = first.pos;
        let lines_before = usize::try_from(line).unwrap_or(1).saturating_sub(1);
        let before = source.split_inclusive('\n').take(lines_before);
        let before: usize = before.map(|line| line.chars().count()).sum();
        let column = before + usize::try_from(column).unwrap_or(1).max(1);
        if first.msg.contains("Recursion limit") {
            return wrong(1, "is nested too deeply".to_owned());
        }
        if first.msg.contains("argument to has()") {
            let message = "has() takes a field with a dot in its name".to_owned();
            let remedy = "a number that is there is >= 0, a text has size() >= 0".to_owned();
            return Mistake {
                remedy: Some(remedy),
                ..wrong(column, message)
            };
        }
        wrong(column, format!("is no expression: {}", first.msg))
    })?;
    match is_too_deep(program.expression()) {
        true => Err(wrong(1, "is nested too deeply".to_owned())),
        false => Ok(program),
    }
}

fn is_too_deep(root: &IdedExpr) -> bool {
    let mut left = vec![(root, 1)];
    while let Some((expr, depth)) = left.pop() {
        if depth > DEPTH_MAX {
            return true;
        }
        left.extend(below(expr).into_iter().map(|expr| (expr, depth + 1)));
    }
    false
}

/// The expressions that one is made of.
fn below(expr: &IdedExpr) -> Vec<&IdedExpr> {
    match &expr.expr {
        Expr::Select(select) => vec![&select.operand],
        Expr::Call(call) => operands(call),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(of_entry).collect(),
        Expr::Struct(object) => object.entries.iter().flat_map(of_entry).collect(),
        Expr::Comprehension(each) => vec![
            &each.iter_range,
            &each.accu_init,
            &each.loop_cond,
            &each.loop_step,
            &each.result,
        ],
        Expr::Literal(_) | Expr::Ident(_) | Expr::Unspecified => Vec::new(),
    }
}

fn of_entry(entry: &IdedEntryExpr) -> Vec<&IdedExpr> {
    match &entry.expr {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

fn operands(call: &CallExpr) -> Vec<&IdedExpr> {
    call.target
        .as_deref()
        .into_iter()
        .chain(&call.args)
        .collect()
}

/// What an expression visibly gives that is not one value.
fn compound(expr: &IdedExpr) -> Option<&'static str> {
    match expr.expr {
        Expr::List(_) => Some("a list"),
        Expr::Map(_) => Some("a map"),
        Expr::Struct(_) => Some("an object"),
        _ => None,
    }
}

/// What the interpreter knows beside operators: the functions of CEL, and what its macros become.
const FUNCTIONS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "type",
    "dyn",
];

/// What the parser makes something else of.
const MACROS: [&str; 6] = ["has", "exists", "exists_one", "all", "map", "filter"];

/// Conditions that an expression's lists are written out to. More are interpreted.
const WRITTEN_OUT_MAX: usize = 1_000;

/// What is known here, and not to the interpreter.
const OURS: [&str; 3] = ["lowerAscii", "cidr", "containsIP"];

fn is_operator(name: &str) -> bool {
    name.starts_with(['_', '@', '!', '-'])
}

struct Reader<'p> {
    source: &'p str,
    info: &'p SourceInfo,
    known: Known,
    names_header: Cell<bool>,
    addresses: RefCell<Vec<usize>>,
    written_out: Cell<usize>,
}

/// Where clients' addresses stand.
const ADDRESSES: [&str; 2] = ["client.address", "network.peer.address"];

/// What a chain of names stands for.
enum Named {
    Field(usize),
    /// A field with free keys.
    Keys(usize),
}

impl<'p> Reader<'p> {
    fn new(source: &'p str, program: &'p Program, known: Known) -> Self {
        let info = program.source_info();
        Self {
            source,
            info,
            known,
            names_header: Cell::new(false),
            addresses: RefCell::default(),
            written_out: Cell::new(0),
        }
    }

    fn mistake(&self, at: &IdedExpr, message: String, remedy: Option<String>) -> Mistake {
        // A selection stands where its dot does; what is wrong with it begins with its first name.
        let mut first = at;
        while let Expr::Select(select) = &first.expr {
            first = &select.operand;
        }
        let start = self.info.offset_for(first.id);
        let start = start.map_or(0, |(start, _)| start as usize);
        // Offsets are in bytes.
        let before = self.source.get(..start).unwrap_or(self.source);
        let column = before.chars().count() + 1;
        Mistake {
            column,
            message,
            remedy,
        }
    }

    fn wrong<T>(&self, at: &IdedExpr, message: String) -> Lowered<T> {
        Err(self.mistake(at, message, None).into())
    }

    fn lower(&self, expr: &IdedExpr) -> Lowered<Typed> {
        match &expr.expr {
            Expr::Literal(literal) => self.literal(expr, literal),
            Expr::Select(select) if select.test => self.presence(expr, select),
            Expr::Ident(_) | Expr::Select(_) => match self.named(expr)? {
                Named::Field(field) => self.field(expr, field),
                Named::Keys(_) => Err(Refusal::Unknown),
            },
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => {
                let texts: Option<Vec<String>> = list.elements.iter().map(text_literal).collect();
                match texts {
                    Some(texts) => Ok(Typed::List(Box::new(move |_| {
                        Ok(texts.iter().cloned().map(Cow::Owned).collect())
                    }))),
                    None => Err(Refusal::Unknown),
                }
            }
            Expr::Comprehension(each) => self.written_out(each),
            Expr::Unspecified | Expr::Map(_) | Expr::Struct(_) => Err(Refusal::Unknown),
        }
    }

    fn literal(&self, expr: &IdedExpr, literal: &LiteralValue) -> Lowered<Typed> {
        match literal {
            LiteralValue::Boolean(value) => {
                let value = *value.inner();
                Ok(Typed::Boolean(Box::new(move |_| Ok(value))))
            }
            LiteralValue::Int(value) => {
                let value = *value.inner();
                Ok(Typed::Integer(Box::new(move |_| Ok(value))))
            }
            LiteralValue::UInt(value) => {
                let value = i64::try_from(*value.inner()).unwrap_or(i64::MAX);
                Ok(Typed::Integer(Box::new(move |_| Ok(value))))
            }
            LiteralValue::String(value) => {
                let value = value.inner().to_owned();
                Ok(Typed::Text(Box::new(move |_| {
                    Ok(Cow::Owned(value.clone()))
                })))
            }
            LiteralValue::Double(_) => self.wrong(
                expr,
                "no field has a fraction; times are whole microseconds".to_owned(),
            ),
            LiteralValue::Null => self.wrong(
                expr,
                "no field is null; has(field) tells whether it is there".to_owned(),
            ),
            LiteralValue::Bytes(_) => self.wrong(expr, "no field has bytes".to_owned()),
        }
    }

    /// Resolves `a.b.c`.
    fn named(&self, expr: &IdedExpr) -> Lowered<Named> {
        let Some(name) = dotted(expr) else {
            return Err(Refusal::Unknown);
        };
        Ok(self.find(expr, &name)?)
    }

    fn find(&self, at: &IdedExpr, name: &str) -> Result<Named, Mistake> {
        let found = FIELDS.iter().position(|field| field.name == name);
        if let Some(index) = found {
            if !(self.known.when)(name) {
                let message = format!("{name} {}", self.known.otherwise);
                return Err(self.mistake(at, message, None));
            }
            let mut addresses = self.addresses.borrow_mut();
            if ADDRESSES.contains(&name) && !addresses.contains(&index) {
                addresses.push(index);
            }
            return Ok(match FIELDS[index].value {
                ValueKind::FreeKeys => Named::Keys(index),
                _ => Named::Field(index),
            });
        }
        let keys = FIELDS.iter().find(|field| {
            field.value == ValueKind::FreeKeys
                && name
                    .strip_prefix(field.name)
                    .is_some_and(|rest| rest.starts_with('.'))
        });
        if let Some(field) = keys {
            let key = &name[field.name.len() + 1..];
            let message = format!("{name}: keys of {} stand in brackets", field.name);
            let remedy = format!("write {}[{key:?}]", field.name);
            return Err(self.mistake(at, message, Some(remedy)));
        }
        let remedy =
            nearest_of(name, self.known.when).map(|nearest| format!("did you mean {nearest}?"));
        Err(self.mistake(at, format!("{name} is no field of the record"), remedy))
    }

    fn field(&self, at: &IdedExpr, field: usize) -> Lowered<Typed> {
        let absent = Unanswered::Absent(field);
        Ok(match FIELDS[field].value {
            ValueKind::Integer => {
                Typed::Integer(Box::new(move |facts| facts.integer(field).ok_or(absent)))
            }
            ValueKind::Boolean => {
                Typed::Boolean(Box::new(move |facts| facts.boolean(field).ok_or(absent)))
            }
            // Of objects those that name them, such as the detectors of findings.
            ValueKind::List(ValueKind::Text | ValueKind::Object(_)) => {
                Typed::List(Box::new(move |facts| facts.list(field).ok_or(absent)))
            }
            ValueKind::Text
            | ValueKind::Id
            | ValueKind::Timestamp
            | ValueKind::Uuid
            | ValueKind::OneOf(_)
            | ValueKind::TcpFlags => {
                Typed::Text(Box::new(move |facts| facts.text(field).ok_or(absent)))
            }
            ValueKind::List(_) | ValueKind::Object(_) | ValueKind::FreeKeys => {
                return self.wrong(at, format!("{} cannot be asked for", FIELDS[field].name));
            }
        })
    }

    /// `has(a.b.c)`
    fn presence(&self, expr: &IdedExpr, select: &SelectExpr) -> Lowered<Typed> {
        let Some(name) = selected(select) else {
            return Err(Refusal::Unknown);
        };
        let field = match self.find(&select.operand, &name)? {
            Named::Field(field) => self.field(expr, field)?,
            Named::Keys(_) => return Err(Refusal::Unknown),
        };
        let code: Code<bool> = match field {
            Typed::Boolean(code) => Box::new(move |facts| Ok(code(facts).is_ok())),
            Typed::Integer(code) => Box::new(move |facts| Ok(code(facts).is_ok())),
            Typed::Text(code) => Box::new(move |facts| Ok(code(facts).is_ok())),
            // As CEL has it of repeated fields.
            Typed::List(code) => {
                Box::new(move |facts| Ok(code(facts).is_ok_and(|list| !list.is_empty())))
            }
        };
        Ok(Typed::Boolean(code))
    }

    fn call(&self, expr: &IdedExpr, call: &CallExpr) -> Lowered<Typed> {
        match (call.func_name.as_str(), operands(call).as_slice()) {
            (operators::LOGICAL_AND, [a, b]) => {
                let (a, b) = (self.boolean(a)?, self.boolean(b)?);
                Ok(Typed::Boolean(Box::new(move |facts| match a(facts) {
                    Ok(false) => Ok(false),
                    Ok(true) => b(facts),
                    Err(error) => match b(facts) {
                        Ok(false) => Ok(false),
                        _ => Err(error),
                    },
                })))
            }
            (operators::LOGICAL_OR, [a, b]) => {
                let (a, b) = (self.boolean(a)?, self.boolean(b)?);
                Ok(Typed::Boolean(Box::new(move |facts| match a(facts) {
                    Ok(true) => Ok(true),
                    Ok(false) => b(facts),
                    Err(error) => match b(facts) {
                        Ok(true) => Ok(true),
                        _ => Err(error),
                    },
                })))
            }
            (operators::LOGICAL_NOT, [a]) => {
                let a = self.boolean(a)?;
                Ok(Typed::Boolean(Box::new(move |facts| a(facts).map(|a| !a))))
            }
            (operators::CONDITIONAL, [condition, yes, no]) => self.conditional(condition, yes, no),
            (operators::EQUALS, [a, b]) => self.equality(expr, a, b, true),
            (operators::NOT_EQUALS, [a, b]) => self.equality(expr, a, b, false),
            (operators::LESS, [a, b]) => self.order(expr, a, b, |order| order.is_lt()),
            (operators::LESS_EQUALS, [a, b]) => self.order(expr, a, b, |order| order.is_le()),
            (operators::GREATER, [a, b]) => self.order(expr, a, b, |order| order.is_gt()),
            (operators::GREATER_EQUALS, [a, b]) => self.order(expr, a, b, |order| order.is_ge()),
            (operators::ADD, [a, b]) => match (self.lower(a)?, self.lower(b)?) {
                (Typed::Integer(a), Typed::Integer(b)) => Ok(arithmetic(a, b, i64::checked_add)),
                (Typed::Text(a), Typed::Text(b)) => Ok(Typed::Text(Box::new(move |facts| {
                    let mut joined = a(facts)?.into_owned();
                    joined.push_str(&b(facts)?);
                    Ok(Cow::Owned(joined))
                }))),
                (a, b) => self.unfitting(expr, "added", &a, &b),
            },
            (operators::SUBSTRACT, [a, b]) => self.arithmetic(expr, a, b, i64::checked_sub),
            (operators::MULTIPLY, [a, b]) => self.arithmetic(expr, a, b, i64::checked_mul),
            (operators::DIVIDE, [a, b]) => self.arithmetic(expr, a, b, i64::checked_div),
            (operators::MODULO, [a, b]) => self.arithmetic(expr, a, b, i64::checked_rem),
            (operators::NEGATE, [a]) => match self.lower(a)? {
                Typed::Integer(a) => Ok(Typed::Integer(Box::new(move |facts| {
                    a(facts)?.checked_neg().ok_or(Unanswered::Failed)
                }))),
                other => self.wrong(expr, format!("{} has no negative", other.name())),
            },
            (operators::IN, [value, set]) => self.membership(expr, value, set),
            (operators::INDEX, [keys, key]) => self.one_key(keys, key),
            ("startsWith", [text, part]) => {
                self.part(text, part, |text, part| text.starts_with(part))
            }
            ("endsWith", [text, part]) => self.part(text, part, |text, part| text.ends_with(part)),
            ("contains", [text, part]) => self.part(text, part, |text, part| text.contains(part)),
            ("matches", [text, pattern]) => self.pattern(text, pattern),
            ("lowerAscii", [text]) => {
                let text = self.text(text)?;
                Ok(Typed::Text(Box::new(move |facts| {
                    Ok(Cow::Owned(text(facts)?.to_ascii_lowercase()))
                })))
            }
            ("size", [one]) => match self.lower(one)? {
                Typed::Text(text) => Ok(Typed::Integer(Box::new(move |facts| {
                    Ok(text(facts)?.chars().count() as i64)
                }))),
                Typed::List(list) => Ok(Typed::Integer(Box::new(move |facts| {
                    Ok(list(facts)?.len() as i64)
                }))),
                other => self.wrong(expr, format!("{} has no size", other.name())),
            },
            ("containsIP", [network, address]) => self.network(network, address),
            ("cidr", [_]) => self.wrong(
                expr,
                "is asked with .containsIP(address), and for nothing else".to_owned(),
            ),
            (
                "startsWith" | "endsWith" | "contains" | "matches" | "lowerAscii" | "size"
                | "containsIP" | "cidr",
                _,
            ) => self.wrong(
                expr,
                format!("{} has another number of arguments", call.func_name),
            ),
            _ => Err(Refusal::Unknown),
        }
    }

    /// `["a", "b"].exists(x, condition)` and `all`: the condition for each element, joined.
    fn written_out(&self, each: &ComprehensionExpr) -> Lowered<Typed> {
        let Expr::List(list) = &each.iter_range.expr else {
            return Err(Refusal::Unknown);
        };
        let (Expr::Literal(LiteralValue::Boolean(init)), Expr::Call(step)) =
            (&each.accu_init.expr, &each.loop_step.expr)
        else {
            return Err(Refusal::Unknown);
        };
        // What ends it: one that holds, or one that does not.
        let decides = !*init.inner();
        let joins = match decides {
            true => operators::LOGICAL_OR,
            false => operators::LOGICAL_AND,
        };
        let is_accumulated =
            |expr: &IdedExpr| matches!(&expr.expr, Expr::Ident(name) if *name == each.accu_var);
        let [accumulated, condition] = step.args.as_slice() else {
            return Err(Refusal::Unknown);
        };
        let is_plain = step.func_name == joins
            && is_accumulated(accumulated)
            && is_accumulated(&each.result)
            && each.iter_var2.is_none()
            && !list.elements.is_empty()
            && list.elements.iter().all(is_literal);
        let written_out = self.written_out.get() + list.elements.len();
        if !is_plain || written_out > WRITTEN_OUT_MAX {
            return Err(Refusal::Unknown);
        }
        self.written_out.set(written_out);
        let conditions = list.elements.iter().map(|element| {
            let mut condition = condition.clone();
            put(element, &each.iter_var, &mut condition);
            self.boolean(&condition)
        });
        let conditions = conditions.collect::<Result<Vec<Code<bool>>, _>>()?;
        Ok(Typed::Boolean(Box::new(move |facts| {
            let mut answer = Ok(!decides);
            for condition in &conditions {
                match condition(facts) {
                    Ok(holds) if holds == decides => return Ok(decides),
                    Ok(_) => {}
                    Err(error) => answer = Err(error),
                }
            }
            answer
        })))
    }

    fn boolean(&self, expr: &IdedExpr) -> Result<Code<bool>, Mistake> {
        self.boolean_or(expr, "is", "and is to be true or false")
    }

    /// What no closure knows is interpreted, from here on down and not beside it.
    fn boolean_or(&self, expr: &IdedExpr, is: &str, instead: &str) -> Result<Code<bool>, Mistake> {
        let other = |thing| self.mistake(expr, format!("{is} {thing}, {instead}"), None);
        if let Some(thing) = compound(expr) {
            return Err(other(thing));
        }
        match self.lower(expr) {
            Ok(Typed::Boolean(code)) => Ok(code),
            Ok(typed) => Err(other(typed.name())),
            Err(Refusal::Unknown) => {
                let interpreted = self.interpreted(expr)?;
                Ok(Box::new(move |facts| interpreted.boolean(facts)))
            }
            Err(Refusal::Wrong(mistake)) => Err(mistake),
        }
    }

    fn interpreted(&self, expr: &IdedExpr) -> Result<Interpreted, Mistake> {
        Ok(Interpreted::new(expr.clone(), self.all_fields(expr)?))
    }

    fn text(&self, expr: &IdedExpr) -> Lowered<TextCode> {
        match self.lower(expr)? {
            Typed::Text(code) => Ok(code),
            other => self.wrong(expr, format!("is {}, and is to be a text", other.name())),
        }
    }

    fn unfitting<T>(&self, at: &IdedExpr, verb: &str, a: &Typed, b: &Typed) -> Lowered<T> {
        self.wrong(
            at,
            format!("{} and {} cannot be {verb}", a.name(), b.name()),
        )
    }

    fn conditional(&self, condition: &IdedExpr, yes: &IdedExpr, no: &IdedExpr) -> Lowered<Typed> {
        let condition = self.boolean(condition)?;
        match (self.lower(yes)?, self.lower(no)?) {
            (Typed::Boolean(a), Typed::Boolean(b)) => Ok(Typed::Boolean(Box::new(move |facts| {
                if condition(facts)? {
                    a(facts)
                } else {
                    b(facts)
                }
            }))),
            (Typed::Integer(a), Typed::Integer(b)) => Ok(Typed::Integer(Box::new(move |facts| {
                if condition(facts)? {
                    a(facts)
                } else {
                    b(facts)
                }
            }))),
            (Typed::Text(a), Typed::Text(b)) => Ok(Typed::Text(Box::new(move |facts| {
                if condition(facts)? {
                    a(facts)
                } else {
                    b(facts)
                }
            }))),
            (a, b) => self.unfitting(yes, "chosen between", &a, &b),
        }
    }

    fn equality(&self, at: &IdedExpr, a: &IdedExpr, b: &IdedExpr, equal: bool) -> Lowered<Typed> {
        // The other way round, so that a literal is on the right.
        let (a, b) = if is_literal(a) { (b, a) } else { (a, b) };
        self.check_word(a, b)?;
        if let (Expr::Literal(_), Some(wanted)) = (&b.expr, text_literal(b)) {
            let text = self.text(a)?;
            return Ok(Typed::Boolean(Box::new(move |facts| {
                Ok((*text(facts)? == *wanted) == equal)
            })));
        }
        match (self.lower(a)?, self.lower(b)?) {
            (Typed::Integer(a), Typed::Integer(b)) => Ok(Typed::Boolean(Box::new(move |facts| {
                Ok((a(facts)? == b(facts)?) == equal)
            }))),
            (Typed::Text(a), Typed::Text(b)) => Ok(Typed::Boolean(Box::new(move |facts| {
                Ok((a(facts)? == b(facts)?) == equal)
            }))),
            (Typed::Boolean(a), Typed::Boolean(b)) => Ok(Typed::Boolean(Box::new(move |facts| {
                Ok((a(facts)? == b(facts)?) == equal)
            }))),
            (a, b) => self.unfitting(at, "compared", &a, &b),
        }
    }

    /// A word that a field never has is a typo, not a condition that is never true.
    fn check_word(&self, field: &IdedExpr, literal: &IdedExpr) -> Lowered<()> {
        let (Some(name), Some(word)) = (dotted(field), text_literal(literal)) else {
            return Ok(());
        };
        let kind = FIELDS
            .iter()
            .find(|field| field.name == name)
            .map(|field| field.value);
        let Some(ValueKind::OneOf(words)) = kind else {
            return Ok(());
        };
        if words.contains(&word.as_str()) {
            return Ok(());
        }
        let message = format!("{name} is never {word:?}");
        let remedy = match nearest_among(&word, words.iter().copied()) {
            Some(nearest) => format!("did you mean {nearest:?}?"),
            None => format!("it is one of {}", words.join(", ")),
        };
        Err(self.mistake(literal, message, Some(remedy)).into())
    }

    /// Findings are those of calltap's own detectors.
    fn check_finding(&self, list: &IdedExpr, literal: &IdedExpr) -> Lowered<()> {
        let (Some("findings"), Some(name)) = (dotted(list).as_deref(), text_literal(literal))
        else {
            return Ok(());
        };
        let known = || DETECTORS.iter().map(|info| info.name);
        if known().any(|known| known == name) {
            return Ok(());
        }
        let remedy =
            nearest_among(&name, known()).map(|nearest| format!("did you mean {nearest:?}?"));
        Err(self
            .mistake(literal, format!("no detector is named {name:?}"), remedy)
            .into())
    }

    fn order(
        &self,
        at: &IdedExpr,
        a: &IdedExpr,
        b: &IdedExpr,
        holds: fn(std::cmp::Ordering) -> bool,
    ) -> Lowered<Typed> {
        match (self.lower(a)?, self.lower(b)?) {
            (Typed::Integer(a), Typed::Integer(b)) => Ok(Typed::Boolean(Box::new(move |facts| {
                Ok(holds(a(facts)?.cmp(&b(facts)?)))
            }))),
            (Typed::Text(a), Typed::Text(b)) => Ok(Typed::Boolean(Box::new(move |facts| {
                Ok(holds(a(facts)?.cmp(&b(facts)?)))
            }))),
            (a, b) => self.unfitting(at, "ordered", &a, &b),
        }
    }

    fn arithmetic(
        &self,
        at: &IdedExpr,
        a: &IdedExpr,
        b: &IdedExpr,
        compute: fn(i64, i64) -> Option<i64>,
    ) -> Lowered<Typed> {
        match (self.lower(a)?, self.lower(b)?) {
            (Typed::Integer(a), Typed::Integer(b)) => Ok(arithmetic(a, b, compute)),
            (a, b) => self.unfitting(at, "computed with", &a, &b),
        }
    }

    fn membership(&self, at: &IdedExpr, value: &IdedExpr, set: &IdedExpr) -> Lowered<Typed> {
        if let Expr::List(list) = &set.expr {
            for element in &list.elements {
                self.check_word(value, element)?;
            }
            let texts: Option<HashSet<String>> = list.elements.iter().map(text_literal).collect();
            let numbers: Option<HashSet<i64>> = list.elements.iter().map(number_literal).collect();
            return match (self.lower(value)?, texts, numbers) {
                (Typed::Text(value), Some(set), _) => Ok(Typed::Boolean(Box::new(move |facts| {
                    Ok(set.contains(&*value(facts)?))
                }))),
                (Typed::Integer(value), _, Some(set)) => {
                    Ok(Typed::Boolean(Box::new(move |facts| {
                        Ok(set.contains(&value(facts)?))
                    })))
                }
                // Computed elements are the interpreter's.
                _ if !list.elements.iter().all(is_literal) => Err(Refusal::Unknown),
                (value, ..) => self.wrong(
                    at,
                    format!("{} is in no list of other things", value.name()),
                ),
            };
        }
        if let Ok(Named::Keys(field)) = self.named(set) {
            let Some(key) = text_literal(value) else {
                return Err(Refusal::Unknown);
            };
            let key = key.to_ascii_lowercase();
            return Ok(Typed::Boolean(Box::new(move |facts| {
                Ok(facts.key(field, &key).is_some())
            })));
        }
        self.check_finding(set, value)?;
        match (self.lower(value)?, self.lower(set)?) {
            (Typed::Text(value), Typed::List(list)) => Ok(Typed::Boolean(Box::new(move |facts| {
                let value = value(facts)?;
                Ok(list(facts)?.contains(&value))
            }))),
            (value, set) => self.unfitting(at, "in each other", &value, &set),
        }
    }

    /// `http.request.header["x-tenant"]`
    fn one_key(&self, keys: &IdedExpr, key: &IdedExpr) -> Lowered<Typed> {
        let Named::Keys(field) = self.named(keys)? else {
            return self.wrong(keys, "has no keys".to_owned());
        };
        self.names_header.set(true);
        let Some(key) = text_literal(key) else {
            return Err(Refusal::Unknown);
        };
        let key = key.to_ascii_lowercase();
        Ok(Typed::Text(Box::new(move |facts| {
            facts.key(field, &key).ok_or(Unanswered::Absent(field))
        })))
    }

    fn part(
        &self,
        text: &IdedExpr,
        part: &IdedExpr,
        holds: fn(&str, &str) -> bool,
    ) -> Lowered<Typed> {
        let text = self.text(text)?;
        if let Some(part) = text_literal(part) {
            return Ok(Typed::Boolean(Box::new(move |facts| {
                Ok(holds(&text(facts)?, &part))
            })));
        }
        let part = self.text(part)?;
        Ok(Typed::Boolean(Box::new(move |facts| {
            Ok(holds(&text(facts)?, &part(facts)?))
        })))
    }

    fn pattern(&self, text: &IdedExpr, pattern: &IdedExpr) -> Lowered<Typed> {
        let Some(wanted) = text_literal(pattern) else {
            return self.wrong(pattern, "a pattern is to be a text in quotes".to_owned());
        };
        let text = self.text(text)?;
        match Regex::new(&wanted) {
            Ok(regex) => Ok(Typed::Boolean(Box::new(move |facts| {
                Ok(regex.is_match(&text(facts)?))
            }))),
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim();
                self.wrong(pattern, format!("{wanted:?} is no pattern: {why}"))
            }
        }
    }

    /// `cidr("10.0.0.0/8").containsIP(client.address)`, as Kubernetes has it.
    fn network(&self, network: &IdedExpr, address: &IdedExpr) -> Lowered<Typed> {
        let prefix = match &network.expr {
            Expr::Call(call) if call.func_name == "cidr" && call.target.is_none() => {
                match call.args.as_slice() {
                    [prefix] => text_literal(prefix),
                    _ => None,
                }
            }
            _ => None,
        };
        let Some(prefix) = prefix else {
            return self.wrong(network, "is to be cidr(\"10.0.0.0/8\")".to_owned());
        };
        let network: Network = prefix.parse().map_err(|why: BadNetwork| {
            self.mistake(network, format!("{prefix:?}: {why}"), Some(why.remedy()))
        })?;
        if let Some(literal) = text_literal(address)
            && literal.parse::<IpAddr>().is_err()
        {
            return self.wrong(address, format!("{literal:?} is no address"));
        }
        let address = self.text(address)?;
        Ok(Typed::Boolean(Box::new(move |facts| {
            let address: Result<IpAddr, _> = address(facts)?.parse();
            address
                .map(|address| network.contains(address))
                .map_err(|_| Unanswered::Failed)
        })))
    }

    /// Every field that is named anywhere, for the interpreter.
    fn all_fields(&self, expr: &IdedExpr) -> Result<Vec<usize>, Mistake> {
        let mut fields = Vec::new();
        self.collect(expr, &mut Vec::new(), &mut fields)?;
        fields.sort_unstable();
        fields.dedup();
        Ok(fields)
    }

    fn collect<'e>(
        &self,
        expr: &'e IdedExpr,
        bound: &mut Vec<&'e str>,
        fields: &mut Vec<usize>,
    ) -> Result<(), Mistake> {
        if let Some(name) = dotted(expr) {
            let root = name.split('.').next().unwrap_or_default();
            if !bound.contains(&root) {
                fields.push(self.interpreted_field(expr, &name)?);
            }
            return Ok(());
        }
        match &expr.expr {
            Expr::Select(select) if select.test => {
                if let Some(name) = selected(select) {
                    fields.push(self.interpreted_field(&select.operand, &name)?);
                    return Ok(());
                }
            }
            Expr::Call(call) => self.check_function(expr, &call.func_name)?,
            Expr::Struct(object) => {
                let message = format!("there are no objects such as {}", object.type_name);
                return Err(self.mistake(expr, message, None));
            }
            Expr::Comprehension(each) => {
                self.collect(&each.iter_range, bound, fields)?;
                self.collect(&each.accu_init, bound, fields)?;
                let before = bound.len();
                bound.push(&each.iter_var);
                bound.extend(each.iter_var2.as_deref());
                bound.push(&each.accu_var);
                for part in [&each.loop_cond, &each.loop_step, &each.result] {
                    self.collect(part, bound, fields)?;
                }
                bound.truncate(before);
                return Ok(());
            }
            _ => {}
        }
        let mut parts = below(expr).into_iter();
        parts.try_for_each(|part| self.collect(part, bound, fields))
    }

    fn interpreted_field(&self, at: &IdedExpr, name: &str) -> Result<usize, Mistake> {
        match self.find(at, name)? {
            Named::Field(field) => Ok(field),
            Named::Keys(_) => {
                let message = format!(
                    "{name} stands beside a list, a map or a macro, where it cannot be asked for"
                );
                let remedy = "ask for it outside: a header in brackets, && and then the rest";
                Err(self.mistake(at, message, Some(remedy.to_owned())))
            }
        }
    }

    fn check_function(&self, at: &IdedExpr, name: &str) -> Result<(), Mistake> {
        if is_operator(name) || FUNCTIONS.contains(&name) {
            return Ok(());
        }
        if OURS.contains(&name) {
            let message = format!("{name} cannot be used within a list, a map or a macro");
            return Err(self.mistake(at, message, None));
        }
        let known = FUNCTIONS.iter().chain(&OURS).chain(&MACROS).copied();
        let remedy = match nearest_among(name, known) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("known are {}, {}", OURS.join(", "), FUNCTIONS.join(", ")),
        };
        Err(self.mistake(at, format!("there is no function {name}"), Some(remedy)))
    }
}

fn arithmetic(a: Code<i64>, b: Code<i64>, compute: fn(i64, i64) -> Option<i64>) -> Typed {
    Typed::Integer(Box::new(move |facts| {
        compute(a(facts)?, b(facts)?).ok_or(Unanswered::Failed)
    }))
}

/// `a.b.c`, if it is that.
fn dotted(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => selected(select),
        _ => None,
    }
}

fn selected(select: &SelectExpr) -> Option<String> {
    Some(format!("{}.{}", dotted(&select.operand)?, select.field))
}

/// Puts `value` wherever `expr` has that name.
fn put(value: &IdedExpr, name: &str, expr: &mut IdedExpr) {
    let mut put = |part: &mut IdedExpr| put(value, name, part);
    match &mut expr.expr {
        Expr::Ident(other) if other == name => *expr = value.clone(),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
        Expr::Select(select) => put(&mut select.operand),
        Expr::Call(call) => {
            call.target.as_deref_mut().into_iter().for_each(&mut put);
            call.args.iter_mut().for_each(put);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(put),
        Expr::Map(map) => map
            .entries
            .iter_mut()
            .for_each(|entry| put_into(entry, put)),
        Expr::Struct(object) => object
            .entries
            .iter_mut()
            .for_each(|entry| put_into(entry, put)),
        Expr::Comprehension(each) => {
            put(&mut each.iter_range);
            put(&mut each.accu_init);
            // The same name means something else below.
            if each.iter_var != name && each.iter_var2.as_deref() != Some(name) {
                put(&mut each.loop_cond);
                put(&mut each.loop_step);
                put(&mut each.result);
            }
        }
    }
}

fn put_into(entry: &mut IdedEntryExpr, mut put: impl FnMut(&mut IdedExpr)) {
    match &mut entry.expr {
        EntryExpr::MapEntry(entry) => {
            put(&mut entry.key);
            put(&mut entry.value);
        }
        EntryExpr::StructField(field) => put(&mut field.value),
    }
}

fn is_literal(expr: &IdedExpr) -> bool {
    matches!(expr.expr, Expr::Literal(_))
}

fn text_literal(expr: &IdedExpr) -> Option<String> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        _ => None,
    }
}

fn number_literal(expr: &IdedExpr) -> Option<i64> {
    match &expr.expr {
        Expr::Literal(LiteralValue::Int(number)) => Some(*number.inner()),
        Expr::Literal(LiteralValue::UInt(number)) => i64::try_from(*number.inner()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cel::Context;

    use super::*;

    #[test]
    fn the_interpreter_has_the_functions_that_are_let_through_to_it() {
        for name in FUNCTIONS {
            let again = Context::default().add_function(name, |number: i64| number);
            assert!(again.is_err(), "{name} is not there");
        }
        for name in OURS {
            let again = Context::default().add_function(name, |number: i64| number);
            assert!(again.is_ok(), "{name} is there");
        }
    }
}
