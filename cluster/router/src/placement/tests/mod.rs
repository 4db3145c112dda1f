//! Each part beside what it is meant to be: true models with noise, every cut, every order, sums over what is live.

mod choose;
mod models;
mod plan;
mod reservations;
