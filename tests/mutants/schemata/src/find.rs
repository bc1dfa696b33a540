//! Where in a source the mutants of a list stand.

use crate::Mutant;
use crate::write::{Kind, Place};
use std::collections::BTreeMap;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Block, Expr, Pat, ReturnType, Signature};

pub struct Found {
    pub places: Vec<Place>,
    pub without_place: BTreeMap<u32, &'static str>,
}

pub fn places(text: &str, mutants: &[&Mutant]) -> syn::Result<Found> {
    let lines: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut waiting: BTreeMap<(&str, usize), Vec<(u32, &str)>> = BTreeMap::new();
    for mutant in mutants {
        let line = lines[mutant.span.start.line - 1];
        let chars = text[line..].char_indices().nth(mutant.span.start.column - 1);
        let at = line + chars.map_or(0, |(at, _)| at);
        waiting.entry((&mutant.genre, at)).or_default().push((mutant.number, &mutant.replacement));
    }
    let mut finder = Finder { text, waiting, places: Vec::new(), without_place: BTreeMap::new(), constant: 0 };
    finder.visit_file(&syn::parse_file(text)?);
    for (number, _) in std::mem::take(&mut finder.waiting).into_values().flatten() {
        finder.without_place.entry(number).or_insert("in a place that is not known here");
    }
    Ok(Found { places: finder.places, without_place: finder.without_place })
}

struct Finder<'a> {
    text: &'a str,
    /// Genre and place -> number and replacement.
    waiting: BTreeMap<(&'a str, usize), Vec<(u32, &'a str)>>,
    /// Outer ones before inner ones.
    places: Vec<Place>,
    without_place: BTreeMap<u32, &'static str>,
    /// How many constants it is within.
    constant: u32,
}

fn range(node: &impl Spanned) -> Range<usize> {
    node.span().byte_range()
}

impl<'a> Finder<'a> {
    fn text(&self, node: &impl Spanned) -> &'a str {
        &self.text[range(node)]
    }

    fn take(&mut self, genre: &'static str, at: usize) -> Vec<(u32, &'a str)> {
        let taken = self.waiting.remove(&(genre, at)).unwrap_or_default();
        if self.constant > 0 {
            self.refuse(taken, "in a constant");
            return Vec::new();
        }
        taken
    }

    fn refuse(&mut self, mutants: Vec<(u32, &'a str)>, why: &'static str) {
        self.without_place.extend(mutants.into_iter().map(|(number, _)| (number, why)));
    }

    fn place(&mut self, range: Range<usize>, kind: Kind, choices: Vec<(u32, String)>) {
        if !choices.is_empty() {
            self.places.push(Place { range, kind, choices });
        }
    }

    fn within_constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constant += 1;
        visit(self);
        self.constant -= 1;
    }

    /// The list has the start of what stands within the braces; inner functions come later, and have their own.
    fn function(&mut self, signature: &Signature, block: &Block) {
        let (Some(first), body) = (block.stmts.first(), range(block)) else { return };
        let taken = self.take("FnValue", range(first).start);
        let opaque = match &signature.output {
            ReturnType::Type(_, returned) => self.text(returned).contains("impl "),
            ReturnType::Default => false,
        };
        if opaque {
            return self.refuse(taken, "of a function that returns an impl");
        }
        let choices = taken.into_iter().map(|(n, replacement)| (n, replacement.to_owned())).collect();
        self.place(body.start + 1..body.start + 1, Kind::Return, choices);
    }

    fn binary(&mut self, whole: &syn::ExprBinary) {
        let taken = self.take("BinaryOperator", range(&whole.op).start);
        if matches!(whole.op, BinOp::And(_)) && (has_let(&whole.left) || has_let(&whole.right)) {
            return self.refuse(taken, "between the conditions of an `if let`");
        }
        let (left, right) = (self.text(&whole.left), self.text(&whole.right));
        let choices = taken.into_iter().map(|(n, operator)| (n, format!("({left}) {operator} ({right})"))).collect();
        self.place(range(whole), Kind::Value, choices);
    }

    fn structure(&mut self, whole: &syn::ExprStruct) {
        for field in &whole.fields {
            let (all, gone) = (range(whole), range(field));
            let after = self.text[gone.end..all.end].trim_start();
            let rest = after.strip_prefix(',').unwrap_or(after);
            let without = format!("{}{rest}", &self.text[all.start..gone.start]);
            let taken = self.take("StructField", gone.start);
            let choices = taken.into_iter().map(|(n, _)| (n, without.clone())).collect();
            self.place(all, Kind::Value, choices);
        }
    }
}

fn has_let(condition: &Expr) -> bool {
    match condition {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'a> Visit<'_> for Finder<'a> {
    fn visit_item_fn(&mut self, function: &syn::ItemFn) {
        let constant = u32::from(function.sig.constness.is_some());
        self.constant += constant;
        self.function(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
        self.constant -= constant;
    }

    fn visit_impl_item_fn(&mut self, function: &syn::ImplItemFn) {
        let constant = u32::from(function.sig.constness.is_some());
        self.constant += constant;
        self.function(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
        self.constant -= constant;
    }

    fn visit_expr(&mut self, expression: &Expr) {
        match expression {
            Expr::Binary(binary) => self.binary(binary),
            Expr::Unary(unary) => {
                let operand = self.text(&unary.expr);
                let taken = self.take("UnaryOperator", range(unary).start);
                let choices = taken.into_iter().map(|(n, _)| (n, operand.to_owned())).collect();
                self.place(range(unary), Kind::Value, choices);
            }
            Expr::Struct(structure) => self.structure(structure),
            _ => {}
        }
        visit::visit_expr(self, expression);
    }

    fn visit_expr_match(&mut self, whole: &syn::ExprMatch) {
        let rest = |arm: &syn::Arm| arm.guard.is_none() && matches!(arm.pat, Pat::Wild(_) | Pat::Ident(_));
        if !whole.arms.iter().any(rest) {
            for arm in &whole.arms {
                let deleted = self.take("MatchArm", range(arm).start);
                self.refuse(deleted, "an arm without which nothing takes its value");
            }
        }
        visit::visit_expr_match(self, whole);
    }

    fn visit_arm(&mut self, arm: &syn::Arm) {
        let deleted = self.take("MatchArm", range(arm).start);
        match &arm.guard {
            None => {
                let end = range(&arm.pat).end;
                self.place(end..end, Kind::Guard, deleted.into_iter().map(|(n, _)| (n, String::new())).collect());
            }
            Some((_, guard)) => {
                let replaced = self.take("MatchArmGuard", range(guard).start);
                let words = replaced.into_iter().map(|(n, word)| (n, word.to_owned()));
                let choices = deleted.into_iter().map(|(n, _)| (n, "false".to_owned())).chain(words).collect();
                self.place(range(guard), Kind::Value, choices);
            }
        }
        visit::visit_arm(self, arm);
    }

    fn visit_item_const(&mut self, item: &syn::ItemConst) {
        self.within_constant(|finder| visit::visit_item_const(finder, item));
    }

    fn visit_item_static(&mut self, item: &syn::ItemStatic) {
        self.within_constant(|finder| visit::visit_item_static(finder, item));
    }

    fn visit_impl_item_const(&mut self, item: &syn::ImplItemConst) {
        self.within_constant(|finder| visit::visit_impl_item_const(finder, item));
    }

    fn visit_expr_const(&mut self, block: &syn::ExprConst) {
        self.within_constant(|finder| visit::visit_expr_const(finder, block));
    }

    fn visit_type_array(&mut self, array: &syn::TypeArray) {
        self.within_constant(|finder| visit::visit_type_array(finder, array));
    }

    fn visit_expr_repeat(&mut self, repeat: &syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
        self.within_constant(|finder| finder.visit_expr(&repeat.len));
    }
}
