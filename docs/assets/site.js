// the theme wraps tables that scroll sideways once they are seen; a keyboard reaches them too (WCAG 2.2, 2.1.1)
new MutationObserver(() => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) table.tabIndex = 0;
}).observe(document.documentElement, { childList: true, subtree: true });
