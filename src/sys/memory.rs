//! What stays in memory beside a running sandbox.

/// Gives the program's own code and constants back to the page cache; what is needed again comes back from there.
///
/// A start touches some three megabytes of them, and a sandbox may run for days with a parent and an init that only wait.
///
/// # References
/// madvise(2) `MADV_DONTNEED`; elf(5) `PT_LOAD`
pub fn forget_code() {
    // SAFETY: getauxval only reads the auxiliary vector.
    let (table, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if table == 0 {
        return;
    }
    // SAFETY: the kernel has mapped the program headers there, AT_PHNUM of them.
    let headers = unsafe { std::slice::from_raw_parts(table as *const libc::Elf64_Phdr, usize::try_from(count).unwrap_or(0)) };
    // Where the program was put, as the headers know only where it wanted to be: they themselves follow the file's first header.
    let Some(first) = headers.iter().find(|header| header.p_type == libc::PT_LOAD && header.p_offset == 0) else { return };
    let base = table.wrapping_sub(size_of::<libc::Elf64_Ehdr>() as u64).wrapping_sub(first.p_vaddr);
    const PAGE: u64 = 4096;
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let start = base.wrapping_add(header.p_vaddr) & !(PAGE - 1);
        let end = base.wrapping_add(header.p_vaddr).wrapping_add(header.p_memsz);
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        // SAFETY: a segment that is never written: its pages are those of the file, and the kernel reads them again when they are needed.
        unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}
