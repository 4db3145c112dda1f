//! Each part beside what it is meant to be.

mod models;
mod plan;
