//! Each part beside what it is meant to be.

mod choose;
mod models;
mod plan;
