// The words on a folded cell are its name: a second one, hidden, would contradict them.
document.querySelectorAll("summary[aria-label]").forEach((summary) => summary.removeAttribute("aria-label"));
// What scrolls must be reachable by keyboard.
document.querySelectorAll(".bd-article table, .bd-article pre").forEach((box) => { if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; });
document.querySelectorAll("button.search-button-field[aria-label]").forEach((button) => button.removeAttribute("aria-label"));
document.querySelectorAll(".toctree-toggle").forEach((arrow) => arrow.parentElement.setAttribute("aria-label", "Show the pages of this part"));
document.querySelectorAll(".citation-list[role=list]").forEach((list) => list.removeAttribute("role"));
