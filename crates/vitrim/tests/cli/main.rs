//! The program as a user runs it: every command on small data, every refusal in one line.

mod browser;
mod checkpoints;
mod commands;
mod compare;
mod demo;
mod docs;
mod embed;
mod faults;
mod finetune;
mod fixtures;
mod hub;
mod images;
mod interrupt;
mod layouts;
mod methods;
mod metric;
mod naflex;
mod pretrain;
mod refusals;
mod report;
mod shared;
mod universal;
