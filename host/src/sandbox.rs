//! What `compile --sandbox` gives up before it looks at the first hostile byte (faults.md A13).
//!
//! Laws: everything is given up for good, in this order: its place in the pod's cgroup, any network, root, new
//! privileges, and at last every system call that a compiler does not need. What cannot be given up ends the
//! process (faults.md R8). Input and output are open already; no file can be opened afterwards.
#![allow(unsafe_code, reason = "rustix marks unshare as unsafe, see `leave_namespaces`")]

use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{Gid, Uid, UnshareFlags};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Compare,
    SeccompCondition as Condition, SeccompFilter, SeccompRule,
};

use crate::error::Error;

/// Nobody's: outside what distributions and user namespaces hand out.
const UID: u32 = 2_147_400_135;
const MIB: u64 = 1 << 20;

/// The bounds of one compilation; the caller sets them, the kernel keeps them.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Limits {
    pub cpu_seconds: u64,
    pub memory_mib: u64,
    pub output_mib: u64,
    /// Folders of the cgroups to be in, one per hierarchy.
    pub cgroups: Vec<PathBuf>,
    /// Whose death ends us; 0 for whoever started us.
    pub parent: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_seconds: 60, memory_mib: 2048, output_mib: 512, cgroups: vec![], parent: 0 }
    }
}

/// Shuts this process in; must run before any other thread exists.
pub fn enter(limits: &Limits) -> Result<(), Error> {
    for cgroup in &limits.cgroups {
        join(cgroup)?;
    }
    // The kernel shall take the compiler before any pod; not being able to say so is no danger.
    _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    limit(limits)?;
    if rustix::process::geteuid().is_root() {
        leave_namespaces().map_err(failed("namespaces"))?;
        drop_root().map_err(failed("uid"))?;
    }
    // After the change of uid, which clears it.
    die_with_parent(limits.parent)?;
    forbid()
}

fn failed(what: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |cause| Error::Io(format!("the compile sandbox cannot be closed: {what}: {cause}"))
}

fn join(cgroup: &Path) -> Result<(), Error> {
    std::fs::write(cgroup.join("cgroup.procs"), "0")
        .map_err(|cause| Error::Io(format!("cannot enter cgroup {}: {cause}", cgroup.display())))
}

fn limit(limits: &Limits) -> Result<(), Error> {
    let bounds = [
        (Resource::Cpu, limits.cpu_seconds),
        // Private writable memory, and not address space: threads reserve far more of that than they use.
        (Resource::Data, limits.memory_mib * MIB),
        (Resource::Fsize, limits.output_mib * MIB),
        (Resource::Core, 0),
        (Resource::Nofile, 16),
    ];
    for (resource, bound) in bounds {
        // CPU time ends in SIGXCPU, which says so, only while the hard limit is above the soft one.
        let hard = if matches!(resource, Resource::Cpu) { bound + 1 } else { bound };
        let both = Rlimit { current: Some(bound), maximum: Some(hard) };
        rustix::process::setrlimit(resource, both).map_err(failed("limits"))?;
    }
    Ok(())
}

fn leave_namespaces() -> rustix::io::Result<()> {
    let flags = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: none of these flags touches descriptors or memory, which is what makes unshare unsafe.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// For this thread only, and so for all: the others are not there yet.
fn drop_root() -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(UID), Gid::from_raw(UID));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn die_with_parent(parent: i32) -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("parent"))?;
    let found = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if parent != 0 && parent != found {
        return Err(Error::Io(format!("the caller {parent} is gone")));
    }
    Ok(())
}

/// System calls outside the list answer ENOSYS, on which libc falls back where there is an older way.
fn forbid() -> Result<(), Error> {
    let broken =
        |cause| Error::Io(format!("the compile sandbox cannot be closed: seccomp: {cause}"));
    let arch = std::env::consts::ARCH.try_into().map_err(|e| broken(format!("{e}")))?;
    let filter = rules()
        .and_then(|rules| {
            let no = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
            SeccompFilter::new(rules, no, SeccompAction::Allow, arch)
        })
        .map_err(|e| broken(e.to_string()))?;
    let program: seccompiler::BpfProgram = filter.try_into().map_err(|e| broken(format!("{e}")))?;
    seccompiler::apply_filter(&program).map_err(|e| broken(e.to_string()))
}

type Rules = std::collections::BTreeMap<i64, Vec<SeccompRule>>;

fn rules() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|number| (*number, vec![])).collect();
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let own = u64::from(std::process::id());
    let name = u64::from(libc::PR_SET_NAME.unsigned_abs());
    for (number, operator, value) in [
        (libc::SYS_clone, Compare::MaskedEq(thread), thread), // threads, never processes
        (libc::SYS_tgkill, Compare::Eq, own),                 // what abort() sends to itself
        (libc::SYS_prctl, Compare::Eq, name),
    ] {
        let condition = Condition::new(0, Width::Qword, operator, value)?;
        rules.insert(number, vec![SeccompRule::new(vec![condition])?]);
    }
    Ok(rules)
}

/// Memory, threads, clocks, and the descriptors that are open already.
const ALLOWED: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_reaches_another_process_a_file_or_the_network_is_on_the_list() {
        let rules = rules().unwrap();
        for number in [
            libc::SYS_openat,
            libc::SYS_socket,
            libc::SYS_execve,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_clone3,
            libc::SYS_unshare,
            libc::SYS_process_vm_writev,
        ] {
            assert!(!rules.contains_key(&number), "{number}");
        }
    }
}
