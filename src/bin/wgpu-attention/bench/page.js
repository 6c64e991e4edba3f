// A click on a column's head sorts by it, another the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("th")];
    heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const by = row => row.children[column].dataset.by;
        // What is not there comes last either way.
        const numbers = head.classList.contains("number");
        const order = (a, b) => numbers ? by(a) - by(b) : by(a).localeCompare(by(b));
        const missing = (a, b) => (by(a) === "") - (by(b) === "");
        const rows = [...table.tBodies[0].rows].sort((a, b) => missing(a, b) || (down ? order(b, a) : order(a, b)));
        table.tBodies[0].append(...rows);
    }));
}
