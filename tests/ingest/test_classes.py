"""Lists of classes: the benchmarks' own, and a table of the user's."""

import pytest

from ims3core.errors import DataError
from ims3core.ingest import classes


class TestClasses:
    def test_benchmarks_have_the_published_labels(self):
        """ImageNet indices of the 10-class benchmarks (methods h); ImageIDC starts ImageNet-100."""
        labels = {
            "imagewoof": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
            "imagenette": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
            "imageidc": [452, 64, 374, 236, 993, 176, 882, 904, 503, 74],
        }
        everything = list(classes.imagenet())
        for name, expected in labels.items():
            table = classes.class_table(everything, name, trained=False)
            assert [row.generator_label for row in table] == expected
            assert [row.class_index for row in table] == list(range(10))
        assert classes.class_table(everything, "imagewoof", trained=False)[0].human_name == "Australian terrier"
        assert len(classes.class_table(everything, "imagenet100", trained=False)) == 100
        assert [r.generator_label for r in classes.class_table(everything, "imagenet1k", trained=False)] == list(
            range(1000)
        )

    def test_a_trained_generator_knows_class_indices(self):
        """Trained on the subset itself, labels are 0..9 whatever ImageNet calls them."""
        table = classes.class_table(list(classes.imagenet()), "imagewoof", trained=True)
        assert [row.generator_label for row in table] == list(range(10))

    def test_a_missing_folder_is_named(self):
        """A class of the list without a folder stops before anything is decoded."""
        with pytest.raises(DataError, match="9 of 10 classes have no folder: n02093754"):
            classes.class_table(["n02096294"], "imagewoof", trained=False)

    def test_a_table_of_the_users_own(self, tmp_path):
        """folder, human_name, generator_label; columns that are unknown and labels that are no numbers are refused."""
        path = tmp_path / "c.csv"
        path.write_text("folder,generator_label,human_name\nbee,309,bee\nant,310,\n")
        table = classes.class_table(["ant", "bee", "cat"], str(path), trained=False)
        assert [(r.name, r.human_name, r.generator_label) for r in table] == [("bee", "bee", 309), ("ant", "ant", 310)]
        for text, message in (
            ("folder,label\nbee,1\n", "found the columns 'folder', 'label'"),
            ("folder,generator_label\nbee,x\n", "generator_label 'x', wanted a whole number"),
            ("folder\nbee\nbee\n", "folder 'bee' stands there 2 times"),
        ):
            path.write_text(text)
            with pytest.raises(DataError, match=message):
                classes.class_table(["bee"], str(path), trained=False)
        with pytest.raises(DataError, match="no such file"):
            classes.class_table(["bee"], str(tmp_path / "none.csv"), trained=False)

    def test_unknown_lists_and_missing_labels_are_refused(self):
        """The known lists, or the way to give labels, are in the message."""
        with pytest.raises(DataError, match="'imagemeow' is unknown; known: imagewoof"):
            classes.class_table(["bee"], "imagemeow", trained=False)
        with pytest.raises(DataError, match="class bee has no generator_label; wanted a CSV"):
            classes.class_table(["bee"], None, trained=False)
